"""Requests made up from the OpenAPI document, those it allows and those it does not: never a 5xx, every error in the envelope, and what the
document does not allow is refused."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import content_type_conformance, negative_data_rejection, not_a_server_error, status_code_conformance
from schemathesis.core.result import Ok

from headrace.files.folder import FolderBlobs
from headrace.registries.connect import connect
from headrace.settings import Settings
from headrace.testing.backend import Backend
from headrace.testing.listening import listening
from headrace.testing.queue.memory import MemoryQueue
from headrace.testing.scale import FULL_SIZE
from headrace.testing.scripted_worker import ScriptedWorker
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"


class NoArchive(Archive):
    """For the document: nothing is called."""

    def __init__(self) -> None:
        pass


SETTINGS = Settings(port=0, model=MODEL, shutdown_s=2)
SCHEMA = schemathesis.openapi.from_dict(create_app(MemoryQueue(), NoArchive(), Catalog({MODEL: WordPrompter}), SETTINGS).openapi())
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]
EXAMPLES = 500 if FULL_SIZE else 20


def can_be_wrong(operation: Any) -> bool:
    """Whether the document leaves anything out: any text is a model's name."""
    return bool(operation.body or len(operation.query) or any(one.name.endswith("_id") for one in operation.path_parameters))


CASES = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or can_be_wrong(operation)
]


ALWAYS = [not_a_server_error, status_code_conformance, content_type_conformance]
CHECKS = {GenerationMode.POSITIVE: ALWAYS, GenerationMode.NEGATIVE: [*ALWAYS, negative_data_rejection]}


@asynccontextmanager
async def serving(settings: Settings, backend: Backend) -> AsyncIterator[str]:
    """Where an API listens whose worker answers everything at once."""
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    async with connect(settings) as registries, backend.open() as queue:
        archive = Archive(registries.files, registries.batches, FolderBlobs(settings.files_dir))
        async with (
            listening(Server(create_app(queue, archive, catalog, settings), settings)) as url,
            ScriptedWorker(queue, model=MODEL).run(),
        ):
            yield url


@pytest.fixture(scope="module")
def url(backend_of_all: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = SETTINGS.model_copy(update={"redis_url": backend_of_all.url, "files_dir": tmp_path_factory.mktemp("files")})
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(serving(settings, backend_of_all)) as url:
        yield url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def known(url: str) -> dict[str, list[str]]:
    """Values that lead beyond the first check, by the name of their parameter."""
    with httpx.Client(base_url=f"{url}/v1") as client:
        job = client.post("/completions", json={"model": MODEL, "prompt": "hi"}).json()["id"]
        file = client.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}\n")}).json()["id"]
        body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = client.post("/batches", json=body).json()["id"]
    return {
        "job_id": [job, job.removeprefix("cmpl-")],
        "file_id": [file],
        "input_file_id": [file],
        "batch_id": [batch],
        "model": [MODEL],
        "name": [MODEL],
        "after": ["1-3", "0-0", "1-12.1", "9-9", file, batch],
    }


def test_the_document_has_them_all() -> None:
    assert len(OPERATIONS) >= 21
    assert all(operation.body for operation in OPERATIONS if operation.method == "post" and not operation.path.endswith("cancel"))


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_any_request(operation: Any, mode: GenerationMode, url: str, session: requests.Session, known: dict[str, list[str]]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(mode), st.data())
    def run(case: Case[Any], data: st.DataObject) -> None:
        lead_on(case, known, data, mode)
        response = case.call(base_url=url, session=session, timeout=20)
        case.validate_response(response, checks=CHECKS[mode])
        check(response)

    run()


def lead_on(case: Case[Any], known: dict[str, list[str]], data: st.DataObject, mode: GenerationMode) -> None:
    """Put a known model or id where there is any: nearly all that is made up ends at "no such model" otherwise. What is wrong stays so."""
    allowed = mode is GenerationMode.POSITIVE
    body = case.body if isinstance(case.body, dict) else {}
    for values in (body, case.path_parameters, case.query) if allowed else (body,):
        for name in known.keys() & (values or {}).keys():
            if isinstance(values[name], str) and values[name] and data.draw(st.booleans()):
                values[name] = data.draw(st.sampled_from(known[name]))


def check(response: schemathesis.Response) -> None:
    assert response.headers["x-request-id"]
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    assert response.headers["content-type"] == ["application/json"]
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert 10 < len(error["message"]) < 600
    assert isinstance(error["code"], str)
    assert isinstance(error["type"], str)

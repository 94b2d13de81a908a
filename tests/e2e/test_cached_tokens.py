"""What of a prompt lay in the engine's cache, by the official client from every place that tells it, for two tenants."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import httpx
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types import CompletionUsage

from headrace.keys import key_line
from headrace.testing.eventually import eventually
from headrace.testing.tree import ENGINE, Tree, running_tree
from tests.engine_bench import MODEL_NAME, make_checkpoint

KEYS = {"alice": "hr_alice", "bob": "hr_bob"}
BLOCK = 8
PROMPT = 100
WHOLE = 96
"""Of PROMPT tokens: the block of the last one is computed, for its logits."""
PATIENCE_S = 60.0

_firsts = count()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("cached")
    model, keys = folder / "model", folder / "keys"
    make_checkpoint(model)
    keys.write_text("\n".join(key_line(key, tenant) for tenant, key in KEYS.items()))
    environ = {
        "HEADRACE_MODEL": str(model),
        "HEADRACE_MODEL_NAME": MODEL_NAME,
        "HEADRACE_KV_MEMORY_MB": "1",
        "HEADRACE_BLOCK_SIZE": str(BLOCK),
        "HEADRACE_DTYPE": "fp32",
        "HEADRACE_KEYS_FILE": str(keys),
    }
    with running_tree(folder / "data", environ) as tree:
        yield tree


@pytest.fixture
async def alice(site: Tree) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=KEYS["alice"], timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def bob(site: Tree) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=KEYS["bob"], timeout=PATIENCE_S) as client:
        yield client


def asking(**fields: Any) -> dict[str, Any]:
    """A prompt that no other test begins like."""
    prompt = [next(_firsts), *(place * 7 % 60 for place in range(1, PROMPT))]
    return {"model": MODEL_NAME, "prompt": prompt, "max_tokens": 4, "temperature": 0, **fields}


def cached(usage: CompletionUsage | None) -> int | None:
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens


async def asked(client: AsyncOpenAI, ask: dict[str, Any]) -> int | None:
    return cached((await client.completions.create(**ask)).usage)


async def test_the_second_answer_to_a_prompt_was_spared_its_blocks(alice: AsyncOpenAI) -> None:
    ask = asking()
    assert [await asked(alice, ask) for _ in range(2)] == [0, WHOLE]


async def test_another_tenant_hears_nothing_of_it(alice: AsyncOpenAI, bob: AsyncOpenAI) -> None:
    ask = asking()
    assert [await asked(client, ask) for client in (alice, bob, bob)] == [0, 0, WHOLE]


async def test_prompts_share_the_blocks_in_which_they_are_alike(alice: AsyncOpenAI) -> None:
    ask = asking()
    await asked(alice, ask)
    assert await asked(alice, ask | {"prompt": [*ask["prompt"][:44], 1, 2, 3]}) == 40


async def test_several_choices_say_what_the_first_one_found(alice: AsyncOpenAI) -> None:
    ask = asking(n=3)
    assert [await asked(alice, ask) for _ in range(2)] == [0, WHOLE]


async def test_a_stream_tells_it_at_its_end(alice: AsyncOpenAI) -> None:
    ask = asking()
    await asked(alice, ask)
    stream: Any = await alice.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    assert cached([chunk async for chunk in stream][-1].usage) == WHOLE


async def test_a_job_tells_it_once_it_has_ended(alice: AsyncOpenAI, site: Tree) -> None:
    ask = asking()
    await asked(alice, ask)
    async with httpx.AsyncClient(base_url=site.url, headers={"authorization": f"Bearer {KEYS['alice']}"}, timeout=PATIENCE_S) as http:
        job_id = (await http.post("/v1/jobs", json=ask)).raise_for_status().json()["id"]

        async def done() -> Any:
            job = (await http.get(f"/v1/jobs/{job_id}")).json()
            return job if job["status"] == "done" else None

        job = await eventually(done, PATIENCE_S, 0.05)
        [listed] = [one for one in (await http.get("/v1/jobs")).json()["data"] if one["id"] == job_id]
    assert job["usage"] == job["result"]["usage"]
    assert job["usage"]["prompt_tokens_details"]["cached_tokens"] == WHOLE
    assert "cached_tokens" not in listed["usage"]["prompt_tokens_details"]


async def test_a_line_of_a_batch_tells_it(alice: AsyncOpenAI) -> None:
    ask = asking()
    await asked(alice, ask)
    line = orjson.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": ask})
    file = await alice.files.create(file=("input.jsonl", line), purpose="batch")
    batch = await alice.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")

    async def completed() -> Any:
        now = await alice.batches.retrieve(batch.id)
        assert now.status not in ("failed", "expired", "cancelled")
        return now if now.status == "completed" else None

    ended = await eventually(completed, PATIENCE_S, 0.05)
    answer = orjson.loads((await alice.files.content(ended.output_file_id)).text)
    assert answer["response"]["body"]["usage"]["prompt_tokens_details"]["cached_tokens"] == WHOLE


async def test_an_answer_that_goes_on_after_a_death_tells_what_it_began_with(alice: AsyncOpenAI, site: Tree) -> None:
    ask = asking(max_tokens=120)
    await asked(alice, ask | {"max_tokens": 1})
    extra = {"ignore_eos": True, "return_token_ids": True}
    stream: Any = await alice.completions.create(**ask, extra_body=extra, stream=True, stream_options={"include_usage": True})
    chunks = []
    async for chunk in stream:
        chunks.append(chunk)
        if len(chunks) == 10:
            site.kill(*ENGINE)
    assert len(chunks) > 20
    assert (chunks[-1].usage.completion_tokens, cached(chunks[-1].usage)) == (120, WHOLE)  # the engine that ended it had an empty cache

"""kill -9 of each process of a running tree, and of all of them at once: every job still ends exactly once."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from redis import Redis

from headrace.model_folder import DEMO_MODEL
from headrace.testing.eventually import eventually
from headrace.testing.queue_environ import VARIABLE
from headrace.testing.scale import FULL_SIZE
from headrace.testing.tree import Tree, running_tree

RUNNING = 20
JOBS = 120 if FULL_SIZE else 40
TOKENS = 12
OUTBOX = "headrace:{00}:outbox"
LOG = "headrace:{00}:log:"
WITHIN_S = 200.0

API = [("producer_api",)]
WORKER = [("workers",)]
VALKEY = [("valkey-server",)]
EVERYTHING = [*API, *WORKER, *VALKEY]
PUMP = [("scheduler.kafka",)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with running_tree(tmp_path_factory.mktemp("kill") / "data", {"HEADRACE_MAX_RUNNING": str(RUNNING)}) as running:
        yield running


async def submit(client: httpx.AsyncClient, number: int) -> str:
    body = {
        "model": DEMO_MODEL,
        "messages": [{"role": "user", "content": f"Count from {number}."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    # The key makes a repeat safe: whoever loses an answer asks again.
    answer = await client.post("/v1/jobs", json=body, headers={"idempotency-key": f"job-{number}"})
    job_id: str = answer.raise_for_status().json()["id"]
    return job_id


async def statuses(client: httpx.AsyncClient, ids: Sequence[str]) -> list[str]:
    """What the API says of each job; "unknown" while it cannot be asked."""
    found = []
    for job_id in ids:
        try:
            answer = await client.get(f"/v1/jobs/{job_id}")
        except httpx.TransportError:
            found.append("unknown")
            continue
        found.append(answer.json()["status"] if answer.is_success else "unknown")
    return found


def check_store(tree: Tree, ids: Sequence[str]) -> None:
    """One outbox entry per job, and a log that counts 1 … n without a gap and ends once."""
    with Redis(unix_socket_path=str(tree.socket_path), decode_responses=True) as store:
        ended = [fields["id"] for _, fields in store.xrange(OUTBOX)]
        assert sorted(one for one in ended if one in set(ids)) == sorted(ids)
        for job_id in ids:
            entries = store.xrange(LOG + job_id)
            positions = [tuple(map(int, entry.split("-"))) for entry, _ in entries]
            assert positions == sorted(positions)
            assert [n for _, n in positions] == list(range(1, TOKENS + 2))
            assert ["end" in fields for _, fields in entries] == [False] * TOKENS + [True]


@pytest.mark.parametrize("victims", [API, WORKER, VALKEY, EVERYTHING], ids=["the API", "the worker", "Valkey", "all at once"])
async def test_jobs_survive_the_death_of(tree: Tree, victims: list[tuple[str, ...]], request: pytest.FixtureRequest) -> None:
    first = 1_000 * request.node.callspec.indices["victims"]
    async with httpx.AsyncClient(base_url=tree.url, timeout=30) as client:
        ids = [await submit(client, first + i) for i in range(JOBS)]

        async def in_full_swing() -> bool:
            return (await statuses(client, ids)).count("running") >= RUNNING - 2

        await eventually(in_full_swing, WITHIN_S, pause=0.01)
        behind_kafka = victims is EVERYTHING and VARIABLE in os.environ
        for victim in [*victims, *(PUMP if behind_kafka else ())]:
            tree.kill(*victim)

        async def all_done() -> bool:
            return set(await statuses(client, ids)) == {"done"}

        await eventually(all_done, WITHIN_S, pause=0.2)
        # Asked again under its key, no job is made twice.
        assert await submit(client, first) == ids[0]
        for job_id in ids:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            assert job["usage"]["completion_tokens"] == TOKENS
            assert job["result"]["choices"][0]["finish_reason"] == "length"
    check_store(tree, ids)


async def test_jobs_survive_the_death_of_the_whole_tree(tmp_path: Path) -> None:
    """`headrace up` itself killed -9: its children go with it, and the next start on the same folder finishes the work."""
    data_dir = tmp_path / "data"
    with running_tree(data_dir) as tree:
        async with httpx.AsyncClient(base_url=tree.url, timeout=30) as client:
            ids = [await submit(client, i) for i in range(RUNNING)]

            async def some_started() -> bool:
                return "running" in await statuses(client, ids)

            await eventually(some_started, WITHIN_S, pause=0.01)
        family = tree.process.children(recursive=True)
        tree.process.kill()

        async def all_gone() -> bool:
            return not any(process.is_running() and process.status() != "zombie" for process in family)

        await eventually(all_gone, 30, pause=0.05)
    with running_tree(data_dir) as tree:
        async with httpx.AsyncClient(base_url=tree.url, timeout=30) as client:

            async def all_done() -> bool:
                return set(await statuses(client, ids)) == {"done"}

            await eventually(all_done, WITHIN_S, pause=0.2)
        check_store(tree, ids)

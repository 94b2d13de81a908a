"""What happens to work whose reader leaves."""

import json

import httpx

from headrace.model_folder import DEMO_MODEL
from headrace.testing.eventually import eventually
from headrace.testing.tree import Tree

LONG = 2_000


def body(stream: bool) -> dict[str, object]:
    return {
        "model": DEMO_MODEL,
        "messages": [{"role": "user", "content": "Count for ever."}],
        "max_tokens": LONG,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }


async def status_of(client: httpx.AsyncClient, job_id: str) -> str:
    status: str = (await client.get(f"/v1/jobs/{job_id}")).json()["status"]
    return status


async def test_a_stream_nobody_returns_to_is_cancelled(tree: Tree) -> None:
    async with httpx.AsyncClient(base_url=tree.url, timeout=30) as client:
        async with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
            response.raise_for_status()
            chunks = []
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    chunks.append(json.loads(line[6:]))
                if len(chunks) == 5:
                    break
        job_id = chunks[0]["id"].removeprefix("chatcmpl-")

        async def cancelled() -> bool:
            return await status_of(client, job_id) == "cancelled"

        await eventually(cancelled, pause=0.05)
        job = (await client.get(f"/v1/jobs/{job_id}")).json()
        assert 0 < job["usage"]["completion_tokens"] < LONG


async def test_a_job_goes_on_though_nobody_looks_any_more(tree: Tree) -> None:
    async with httpx.AsyncClient(base_url=tree.url, timeout=30) as client:
        job_id = (await client.post("/v1/jobs", json=body(stream=True))).json()["id"]
        async with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    break
        first = (await client.get(f"/v1/jobs/{job_id}")).json()["usage"]["completion_tokens"]

        async def far_beyond_the_grace() -> bool:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            assert job["status"] == "running"
            return bool(job["usage"]["completion_tokens"] > first + 150)

        await eventually(far_beyond_the_grace, pause=0.05)
        answer = await client.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 200

        async def cancelled() -> bool:
            return await status_of(client, job_id) == "cancelled"

        await eventually(cancelled, within=5, pause=0.02)

"""What a running tree says on its terminal, and keeps in its log, when a part of it dies or hangs, and when that is well again."""

import os
import signal
from pathlib import Path

import httpx

from headrace.model_folder import DEMO_MODEL
from headrace.testing.eventually import eventually
from headrace.testing.tree import ENGINE, Tree, running_tree

WITHIN_S = 90.0


def told(tree: Tree) -> list[str]:
    """Without the times."""
    log = tree.data_dir / "logs" / "tree.log"
    return [line.split(" ", 2)[2].partition(";")[0] for line in log.read_text().splitlines()] if log.exists() else []


async def until_told(tree: Tree, *lines: str) -> None:
    """In this order; others may stand between them."""

    async def found() -> bool:
        behind = iter(told(tree))
        return all(line in behind for line in lines)

    await eventually(found, WITHIN_S, pause=0.1)


async def test_deaths_and_a_hung_store(tmp_path: Path) -> None:
    """The engine makes up its tokens: what is told of it does not depend on what it computes."""
    with running_tree(tmp_path / "data", {"HEADRACE_ENGINE": "scripted"}) as tree:
        assert told(tree) == []
        tree.kill("producer_api")
        tree.kill(*ENGINE)
        await until_told(tree, "the engine ended unexpectedly (SIGKILL) and is started again", "the engine takes work")
        await until_told(tree, "producer_api ended unexpectedly (SIGKILL) and is started again", "producer_api runs again, for 10 s now")
        async with httpx.AsyncClient(base_url=tree.url, timeout=30) as client:
            body = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
            job = (await client.post("/v1/jobs", json=body)).raise_for_status().json()
            [hung] = tree.pids("valkey-server")
            os.kill(hung, signal.SIGSTOP)
            assert (await client.get("/ready")).json()["components"]["store"] == {"status": "failed", "why": "queue unreachable"}
            await until_told(tree, "Valkey has not answered for 10 s: it is killed and started again", "Valkey answers again")

            async def well() -> bool:
                ready = (await client.get("/ready")).json()
                return {part["status"] for part in ready["components"].values()} == {"ok"}

            await eventually(well, WITHIN_S, pause=0.2)
            assert (await client.get(f"/v1/jobs/{job['id']}")).json()["status"] == "done"
        assert len([line for line in told(tree) if "unexpectedly" in line]) == 2

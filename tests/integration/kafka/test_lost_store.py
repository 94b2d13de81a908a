"""The state store is lost while Kafka lives: what has ended is not run again, what has not runs, and epochs tell the two stores apart."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from headrace.cursor import GENERATION_EPOCHS
from headrace.embedded import EmbeddedValkey
from headrace.errors import JobPurged
from headrace.kafka.record import encode_accepted
from headrace.queues.redis import RedisQueue
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.kafka import KafkaSite
from headrace.testing.pump_site import MODEL, PumpSite
from headrace.testing.scripted_worker import Pace, ScriptedWorker

LATE = "late"


def flush(server: EmbeddedValkey) -> None:
    with Redis.from_url(server.url) as store:
        store.flushall()
        store.function_flush()


def delete(server: EmbeddedValkey) -> None:
    server.stop()
    for found in server.data_dir.glob("appendonly*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    for found in server.data_dir.glob("*.rdb"):
        found.unlink()
    server.start()


@pytest.mark.parametrize(("lose", "pump_lives"), [(flush, True), (delete, False)])
async def test_what_has_ended_stays_so_and_the_rest_runs(
    tmp_path: Path, kafka: KafkaSite, lose: Callable[[EmbeddedValkey], None], pump_lives: bool
) -> None:
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    site = PumpSite(server.url, kafka, tmp_path)
    ended = [f"ended{i}" for i in range(30)]
    waiting = [f"waiting{i}" for i in range(20)]
    accepted = make_submission(make_request(model=MODEL, prompt_ids=(0, 1)), key="k")
    queue = await RedisQueue.connect(server.url)
    try:
        async with site.client() as client, site.pump() as process:
            for one in ended:
                await client.ask(one)
            async with ScriptedWorker(queue, model=MODEL).run():
                before = await site.answered(ended)
            first_generation = await queue.generation()
            # A running job has told some of its tokens; another was accepted by the API.
            pace = Pace(free=False)
            pace.allow(60)
            for one in waiting:
                await client.ask(one, headers=[("tokens", b"true")])
            await queue.reserve(accepted)
            await client.write_accepted(accepted.request.id.encode(), encode_accepted(accepted))
            async with ScriptedWorker(queue, model=MODEL, name="held", pace=pace).run():

                async def told() -> bool:
                    return len(await site.records(site.topics.tokens)) >= 50

                await eventually(told, within=60, pause=0.2)
            if not pump_lives:
                process.kill()
                await process.wait()
            lose(server)
            async with site.pump():

                async def here() -> bool:
                    return site.said.count("has what the log held") == 2

                await eventually(here, within=60, pause=0.1)
                async with ScriptedWorker(queue, model=MODEL, name="after").run():
                    found = await site.answered([*ended, *waiting, accepted.request.id], within=90)
                await client.ask(LATE)
                async with ScriptedWorker(queue, model=MODEL, name="last").run():
                    await site.answered([LATE])
        assert {one: found[one] for one in ended} == before, "an end was told again, or differently"
        rest = {one: results for one, results in found.items() if one in {*waiting, accepted.request.id}}
        assert all(len(results) == 1 and results[0]["state"] == "done" for results in rest.values())
        assert len(rest) == 21
        jobs = await queue.list_jobs("default", after=None, limit=1_000)
        found_again = re.findall(r"ended=(\d+) admitted=(\d+) known=(\d+) others=0", site.said)[-1]
        # The worker that was held back may have come to the end of some: it wrote 60 tokens, and an answer has 11.
        over = int(found_again[0])
        assert found_again == (str(over), str(51 - over), str(over))
        assert 30 <= over <= 35
        assert len(jobs) == 51 - over + 1, "what had ended ran again"
        assert await queue.generation() > first_generation
        assert all(job.epoch > (first_generation + 1) * GENERATION_EPOCHS for job in jobs)
        with pytest.raises(JobPurged):
            await queue.get("default", before["ended0"][0]["job_id"])
    finally:
        await queue.aclose()
        server.stop()

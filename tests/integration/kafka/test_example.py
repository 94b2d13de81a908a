"""The client in examples/, as docs/kafka.md shows it."""

import asyncio
import os
import sys
from pathlib import Path

from headrace.queues.redis import RedisQueue
from headrace.testing.kafka import KafkaSite, tansu
from headrace.testing.pump_site import MODEL, PumpSite
from headrace.testing.scripted_worker import PANGRAM, ScriptedWorker
from headrace.testing.store import Store

EXAMPLE = Path(__file__).parents[3] / "examples" / "kafka_client.py"


async def test_the_example_reads_a_result_for_each_request(valkey: Store, queue: RedisQueue, tmp_path: Path) -> None:
    # It writes to the topics that everybody has, so it gets a broker of its own.
    with tansu(tmp_path / "tansu.log") as broker:
        site = PumpSite(valkey.url, KafkaSite(broker.servers, "headrace"), tmp_path)
        env = os.environ | {"HEADRACE_MODEL_NAME": MODEL}
        env.pop("HEADRACE_API_KEY", None)
        async with site.pump(), ScriptedWorker(queue, model=MODEL).run():
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), broker.servers, env=env, stdout=pipe, stderr=pipe)
            try:
                out, err = await asyncio.wait_for(process.communicate(), 120)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        assert process.returncode == 0, err.decode()
        said = [line.split(maxsplit=2) for line in out.decode().splitlines()]
        run = said[0][0].partition("-")[0]
        assert {words[0] for words in said} == {f"{run}-{i}" for i in range(100)}
        assert len(said) == 100
        assert {(words[1], words[2]) for words in said} == {("done", repr("".join(PANGRAM)))}

"""From SIGTERM to the end of a process that is in the middle of its work."""

import asyncio
import time
from contextlib import suppress

import httpx

from benchmarks.recovery.figure import Figure
from benchmarks.recovery.hangs import paced_worker
from benchmarks.recovery.host import Host
from benchmarks.recovery.site import LOOK_S, MAX_TOKENS, WITHIN_S, Site
from headrace.model_folder import locate
from headrace.settings import load_settings
from headrace.testing.api_process import ApiProcess
from headrace.testing.eventually import eventually

STREAMS = 100
REQUESTS = 8


async def api(site: Site, n: int) -> list[Figure]:
    """With streams that are being written. Its clients go on at another replica, which is not measured here."""
    settings = load_settings()
    seconds: list[float] = []
    folder = locate(site.model, settings.cache_dir)
    environ = {"HEADRACE_MODEL_NAME": site.served, "HEADRACE_FILES_DIR": str(site.folder / "files")}
    async with paced_worker(site, site.folder / "hangs"):
        for _ in range(n):
            replica = ApiProcess(site.url, folder, **environ, HEADRACE_SHUTDOWN_S=str(settings.shutdown_s))
            limits = httpx.Limits(max_connections=None)
            async with replica.run() as process, httpx.AsyncClient(base_url=replica.url, timeout=WITHIN_S, limits=limits) as client:
                await replica.ready(client)
                begun = [asyncio.Event() for _ in range(STREAMS)]
                streams = [asyncio.ensure_future(_read(client, site.served, one)) for one in begun]
                await asyncio.wait_for(asyncio.gather(*(one.wait() for one in begun)), WITHIN_S)
                began = time.monotonic()
                process.terminate()
                await asyncio.wait_for(process.wait(), WITHIN_S)
                seconds.append(time.monotonic() - began)
                if process.returncode != 0:
                    raise RuntimeError(f"the API ended with {process.returncode}")
                if not all(await asyncio.gather(*streams)):
                    raise RuntimeError("a stream that was cut off ended as if it were complete")
    return [Figure(f"SIGTERM to an API with {STREAMS} open streams", "< 10 s", seconds)]


async def _read(client: httpx.AsyncClient, model: str, begun: asyncio.Event) -> bool:
    """A stream, until it ends. True if it was cut off."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "ignore_eos": True,
    }
    with suppress(httpx.TransportError):
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if '"content":"<' in line.replace(" ", ""):  # a token's text, unlike the role's
                    begun.set()
        return False
    return True


async def worker(site: Site, n: int) -> list[Figure]:
    """Of a real engine. What it ran is back in the queue at the end."""
    seconds: list[float] = []
    async with Host.running(site) as host:
        for i in range(n):
            if i > 0:
                await host.start()
            requests = [await site.submit() for _ in range(REQUESTS)]
            for request in requests:
                await site.in_swing(request)
            seconds.append(await host.drain())
            for request in requests:
                await site.cancel(request)
    return [Figure(f"SIGTERM to a worker that runs {REQUESTS} requests", "< 5 s", seconds)]


async def scheduler(site: Site, n: int) -> list[Figure]:
    """A second one, beside the site's own."""
    seconds: list[float] = []
    log = site.folder / "second-scheduler.log"
    for started in range(1, n + 1):
        async with site.running("scheduler", log) as process:

            async def sweeps(started: int = started) -> bool:
                return log.read_text().count("janitor sweeps") == started

            await eventually(sweeps, WITHIN_S, pause=LOOK_S)
            began = time.monotonic()
            process.terminate()
            if await asyncio.wait_for(process.wait(), WITHIN_S) != 0:
                raise RuntimeError(f"the scheduler ended with {process.returncode}")
            seconds.append(time.monotonic() - began)
    return [Figure("SIGTERM to a scheduler", "", seconds)]

"""From kill -9 to the next token that is committed, with the real engine. Each kill meets one running request of a short prompt."""

import time
from contextlib import AsyncExitStack

from benchmarks.recovery.figure import Figure
from benchmarks.recovery.host import Host
from benchmarks.recovery.site import Site


async def engine_kills(site: Site, n: int, *, hosts: int, standbys: int) -> list[float]:
    """Seconds of each; the next kill comes when all there should be is ready again."""
    seconds: list[float] = []
    async with AsyncExitStack() as stack:
        there = [await stack.enter_async_context(Host.running(site, standbys=standbys)) for _ in range(hosts)]
        for _ in range(n):
            request = await site.submit()
            last = await site.in_swing(request)
            pid = await site.at_work()
            host = next(host for host in there if host.has(pid))
            began = time.monotonic()
            host.kill_engine(pid)
            await site.taken_over(request, last)
            seconds.append(time.monotonic() - began)
            await site.cancel(request)
            await host.ready()
    return seconds


async def with_standby(site: Site, n: int) -> list[Figure]:
    return [Figure("kill -9 of an engine, a standby takes over", "≤ 1 s", await engine_kills(site, n, hosts=1, standbys=1))]


async def with_second_worker(site: Site, n: int) -> list[Figure]:
    return [Figure("kill -9 of an engine, another worker lives", "", await engine_kills(site, n, hosts=2, standbys=0))]


async def alone(site: Site, n: int) -> list[Figure]:
    return [Figure("kill -9 of the only engine: a new process loads the model", "≤ 8 s", await engine_kills(site, n, hosts=1, standbys=0))]


async def machine(site: Site, n: int) -> list[Figure]:
    """Nobody is left to tell: another worker goes on once the lease has run out."""
    seconds: list[float] = []
    async with Host.running(site) as first, Host.running(site) as second:
        for _ in range(n):
            request = await site.submit()
            last = await site.in_swing(request)
            pid = await site.at_work()
            host = first if first.has(pid) else second
            began = time.monotonic()
            await host.lose()
            await site.taken_over(request, last)
            seconds.append(time.monotonic() - began)
            await site.cancel(request)
            await host.start()
    return [Figure("a worker host is lost with all its processes, another one lives", "≤ 6 s", seconds)]


async def store(site: Site, n: int) -> list[Figure]:
    """It is started again on its file by whoever supervises it; nobody loses a lease."""
    seconds: list[float] = []
    async with Host.running(site):
        for _ in range(n):
            request = await site.submit()
            last = await site.in_swing(request)
            began = time.monotonic()
            site.store.kill()
            # One append may have become durable after `last` was read and before the kill; the second one behind it cannot have.
            await site.entries(request, lambda log: len(log) >= 2, last)
            seconds.append(time.monotonic() - began)
            await site.cancel(request)
    return [Figure("kill -9 of Valkey, which is started again", "", seconds)]

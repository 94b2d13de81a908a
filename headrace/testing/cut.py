"""Cutting a process off at its k-th call of anything outside it, before the call or right behind it."""

import asyncio
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any


class Killed(BaseException):
    """Nothing of the process runs any more. Not an Exception: no handler of the process may see it."""


class Cut:
    """Counts the calls of everything that is `watch`ed. At call `at` (from 1; 0: never) and all later ones it raises Killed.

    `behind`: the call at which it dies is still carried out.
    """

    def __init__(self, at: int = 0, *, behind: bool = False) -> None:
        self.calls = 0
        self._at = at
        self._behind = behind

    def watch(self, port: Any) -> Any:
        return _Watched(port, self)

    def watch_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                dies = self._count()
                answer = await function(*args, **kwargs)
                self._die(dies)
                return answer

            return awaited

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            dies = self._count()
            answer = function(*args, **kwargs)
            self._die(dies)
            return answer

        return called

    def _count(self) -> bool:
        self.calls += 1
        dies = 0 < self._at <= self.calls
        self._die(dies and (self.calls > self._at or not self._behind))
        return dies

    @staticmethod
    def _die(dies: bool) -> None:
        if dies:
            raise Killed


class Pause(Cut):
    """Stands still in front of the `at`-th call that can be awaited, until it may `go_on`: a process that was stopped and woken."""

    def __init__(self, at: int, paused: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__()
        self._stop_at = at
        self._paused = paused
        self._go_on = go_on

    def watch_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.iscoroutinefunction(function):
            return function

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._stop_at:
                self._paused.set()
                await self._go_on.wait()
            return await function(*args, **kwargs)

        return awaited


class _Watched:
    def __init__(self, port: Any, cut: Cut) -> None:
        self._port = port
        self._cut = cut

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        return self._cut.watch_function(found) if inspect.ismethod(found) else found

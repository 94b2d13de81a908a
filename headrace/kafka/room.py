"""Room for a number of bytes, which those who come first get first."""

import asyncio
from collections import deque


class Room:
    """For one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, wanted: int) -> None:
        """Returns once `wanted` is free; what is larger than the whole room waits until it is empty."""
        wanted = min(wanted, self._size)
        if not self._waiting and wanted <= self._left:
            self._left -= wanted
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was this one's turn in the same moment
                self.give_back(wanted)
            raise
        finally:
            # Whoever left from the front may have held up those behind.
            self._let_in()

    def give_back(self, taken: int) -> None:
        self._left += min(taken, self._size)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if wanted > self._left:
                    return
                self._left -= wanted
                turn.set_result(None)
            self._waiting.popleft()

"""What claims took, as `memory.py` remembers it: a call whose answer was lost is answered again."""

from collections.abc import Iterable

from headrace.ports import Held


class ClaimMemory:
    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], tuple[int, tuple[Held, ...]]] = {}

    def remember(self, worker: str, nonce: str, taken: Iterable[Held], until: int) -> None:
        """A claim that found nothing is not remembered: its repeat is as good as a first call."""
        if held := tuple(taken):
            self._claims[worker, nonce] = (until, held)

    def recall(self, worker: str, nonce: str, now: int) -> tuple[Held, ...] | None:
        """What an earlier call with this nonce took; None if there was none, or too long ago."""
        self._claims = {key: claim for key, claim in self._claims.items() if claim[0] > now}
        return self._claims[worker, nonce][1] if (worker, nonce) in self._claims else None

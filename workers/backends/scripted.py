"""An engine that computes nothing: its tokens are a pure function of prompt, position and choice.

Tests of the worker loop, of recovery and of the queue's own cost run on it: a resumed run must go on exactly where the log ends, and
whatever time passes is the queue's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.logprobs import Logprobs
from workers.ports import Capacity, Delta, EngineRequest, EngineStats, FinishReason


def token_at(prompt_ids: Sequence[int], position: int, choice: int = 0) -> int:
    """The token at `position` (0 is the first generated one) of an answer to a prompt."""
    return (sum(prompt_ids) * 31 + position * 7 + choice * 13) % 1_000


def logprobs_of(token_ids: Sequence[int], top: int) -> tuple[Logprobs, ...]:
    """Any token is as likely as it is small, and so are its `top` neighbours."""
    return tuple(Logprobs(-token / 8, tuple((token + i, -token / 8 - i) for i in range(top))) for token in token_ids)


def text_of(token_ids: Sequence[int]) -> str:
    return "".join(f"<{token}>" for token in token_ids)


def answer_to(prompt_ids: Sequence[int], max_tokens: int, choice: int = 0) -> tuple[int, ...]:
    """The whole answer."""
    return tuple(token_at(prompt_ids, position, choice) for position in range(max_tokens))


@dataclass(slots=True)
class _Run:
    request: EngineRequest
    position: int


class ScriptedEngine:
    """One token per running request and step. A prompt whose first id is negative fails after its first token."""

    def __init__(self, *, max_running: int = 64, max_tokens: int = 100_000) -> None:
        self._max_running = max_running
        self._max_tokens = max_tokens
        self._runs: dict[str, _Run] = {}
        self._steps = 0

    def warm_up(self) -> None:
        """Nothing to warm."""

    def open(self) -> None:
        """Nothing to take."""

    def add(self, request: EngineRequest) -> None:
        self._runs[request.request_id] = _Run(request, len(request.committed_ids))

    def abort(self, request_id: str) -> None:
        self._runs.pop(request_id, None)

    def step(self, timeout: float) -> list[Delta]:
        self._steps += 1
        deltas = [self._advance(run) for run in self._runs.values()]
        for delta in deltas:
            if delta.finish is not None:
                del self._runs[delta.request_id]
        return deltas

    def capacity(self, priority: int) -> Capacity:
        """Nobody yields."""
        return Capacity(self._max_running - len(self._runs), self._max_tokens - self._tokens())

    def stats(self) -> EngineStats:
        return EngineStats(
            device="none",
            memory_used=0,
            memory_total=0,
            kv_tokens_used=self._tokens(),
            kv_tokens_total=self._max_tokens,
            waiting=0,
            running=len(self._runs),
            steps=self._steps,
            preemptions=0,
        )

    def _advance(self, run: _Run) -> Delta:
        request = run.request
        if run.position >= request.sampling.max_tokens:
            return Delta(request_id=request.request_id, finish=FinishReason.LENGTH)
        if request.committed_ids and request.committed_ids[-1] in request.sampling.stop_token_ids:
            return Delta(request_id=request.request_id, finish=FinishReason.STOP)
        if request.prompt_ids[0] < 0 and run.position > 0:
            return Delta(request_id=request.request_id, finish=FinishReason.ERROR, error="the script says so")
        token_ids = (token_at(request.prompt_ids, run.position, request.choice),)
        stopped, top = token_ids[0] in request.sampling.stop_token_ids, request.sampling.logprobs
        run.position += 1
        ended = run.position >= request.sampling.max_tokens
        return Delta(
            request_id=request.request_id,
            token_ids=token_ids,
            text="" if stopped else text_of(token_ids),
            logprobs=() if top is None else logprobs_of(token_ids, top),
            finish=FinishReason.STOP if stopped else FinishReason.LENGTH if ended else None,
        )

    def _tokens(self) -> int:
        return sum(len(run.request.prompt_ids) + run.position for run in self._runs.values())

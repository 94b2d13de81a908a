"""An engine that computes nothing: its tokens are a pure function of prompt, position and choice.

Tests of the worker loop, of recovery and of the queue's own cost run on it: a resumed run must go on exactly where the log ends, and
whatever time passes is the queue's.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from headrace.logprobs import Logprobs
from workers.engine.output import Output, end_ids_of
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


class ScriptTokenizer:
    """Of the tokens' own spelling."""

    special_ids: Set[int] = frozenset()

    def decode(self, ids: Sequence[int]) -> str:
        return text_of(ids)


@dataclass(slots=True)
class _Run:
    request: EngineRequest
    position: int
    output: Output


class ScriptedEngine:
    """One token per running request and step. A prompt whose first id is negative fails after its first token."""

    def __init__(self, *, max_running: int = 64, max_tokens: int = 100_000, eos_ids: Set[int] = frozenset()) -> None:
        """`max_tokens` of all requests together; a longer prompt is refused."""
        self._max_running = max_running
        self._max_tokens = max_tokens
        self._eos_ids = eos_ids
        self._runs: dict[str, _Run] = {}
        self._early: list[Delta] = []
        self._steps = 0

    def warm_up(self) -> None:
        """Nothing to warm."""

    def open(self) -> None:
        """Nothing to take."""

    def add(self, request: EngineRequest) -> None:
        output = Output(request.sampling, ScriptTokenizer(), end_ids_of(request.sampling, self._eos_ids))
        if (prompt := len(request.prompt_ids)) > self._max_tokens:
            error = f"prompt ({prompt} tokens) exceeds the engine's room for {self._max_tokens} tokens"
            self._early.append(Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=error))
        elif finish := output.replay(request.committed_ids):
            self._early.append(Delta(request_id=request.request_id, finish=finish))
        else:
            self._runs[request.request_id] = _Run(request, len(request.committed_ids), output)

    def abort(self, request_id: str) -> None:
        self._runs.pop(request_id, None)
        self._early = [delta for delta in self._early if delta.request_id != request_id]

    def step(self, timeout: float) -> list[Delta]:
        self._steps += 1
        early, self._early = self._early, []
        deltas = [self._advance(run) for run in self._runs.values()]
        for delta in deltas:
            if delta.finish is not None:
                del self._runs[delta.request_id]
        return early + deltas

    def capacity(self, priority: int) -> Capacity:
        """Nobody yields."""
        return Capacity(max(0, self._max_running - len(self._runs)), max(0, self._max_tokens - self._tokens()))

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
        if request.prompt_ids[0] < 0 and run.position > 0:
            return Delta(request_id=request.request_id, finish=FinishReason.ERROR, error="the script says so")
        token_id, top = token_at(request.prompt_ids, run.position, request.choice), request.sampling.logprobs
        run.position += 1
        shown = run.output.add(token_id)
        return Delta(
            request_id=request.request_id,
            token_ids=(token_id,),
            text=shown.text,
            logprobs=() if top is None else logprobs_of((token_id,), top),
            finish=shown.finish,
        )

    def close(self) -> None:
        """Holds nothing."""

    def _tokens(self) -> int:
        return sum(len(run.request.prompt_ids) + run.position for run in self._runs.values())

"""The requests of an engine that generates elsewhere: how far each has come, and what of it is shown next. Torch-free.

Tokens arrive here in any portions. Text, stop conditions and refusals are made of them as the paged engine makes them, so a request reads
the same whoever generates its tokens, and can be resumed on any engine.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

from headrace.capabilities import Capabilities
from headrace.errors import TokenizerFailed
from headrace.logprobs import Logprobs
from headrace.model_folder import ModelFolder
from headrace.state import Fault
from headrace.tokenizer import Tokenizer
from workers.engine.output import Output, Shown, end_ids_of
from workers.ports import Capacity, Delta, EngineRequest, FinishReason


@dataclass(frozen=True, slots=True)
class Portion:
    """Tokens of one request as they arrived. Log-probabilities as in Delta."""

    token_ids: Sequence[int]
    logprobs: Sequence[Logprobs] = ()
    prompt_logprobs: Sequence[Logprobs] = ()
    cached_tokens: int | None = None
    """Tokens of what the source was given that it had computed before, if it knows; with the first portion."""


@dataclass(slots=True, eq=False)
class Run:
    """A request that has not ended."""

    request: EngineRequest
    output: Output
    arrival: int
    generated: list[int]
    """Committed tokens included: what a run that begins anew goes on behind."""

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def tokens(self) -> int:
        """Known ones: the prompt and what was generated."""
        return len(self.request.prompt_ids) + len(self.generated)

    @property
    def left(self) -> int:
        """Tokens it may still generate; at least 1."""
        return self.request.sampling.max_tokens - len(self.generated)


class Runs:
    """Also collects the deltas of a step: one per request, however many portions its tokens came in."""

    def __init__(self, folder: ModelFolder, tokenizer: Tokenizer, can: Capabilities, *, max_running: int, room: int = 0) -> None:
        """`room`: tokens of all runs together, and of any one."""
        self._folder = folder
        self._tokenizer = tokenizer
        self._can = can
        self._max_running = max_running
        self.room = room
        self._runs: dict[str, Run] = {}
        self._deltas: dict[str, Delta] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __contains__(self, run: Run) -> bool:
        """Whether it still runs; its id may by now be another run's."""
        return self._runs.get(run.id) is run

    def admit(self, request: EngineRequest) -> Run | None:
        """None if it ended on the spot, as the next `take` says. Raises ValueError if it runs already."""
        if request.request_id in self._runs:
            raise ValueError(f"request {request.request_id} is running already")
        if problem := self._problem(request):
            self._collect(Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=problem))
            return None
        output = Output(request.sampling, self._tokenizer, end_ids_of(request.sampling, self._folder.eos_ids))
        try:
            finish = output.replay(request.committed_ids)
        except TokenizerFailed as error:
            self._collect(_failed(request.request_id, Fault.ENGINE_ERROR, str(error)))
            return None
        if finish:
            # An earlier run died between its last token, whose text is with the client, and the report of its end.
            self._collect(Delta(request_id=request.request_id, finish=finish))
            return None
        self._arrivals += 1
        run = self._runs[request.request_id] = Run(request, output, self._arrivals, list(request.committed_ids))
        return run

    def abort(self, request_id: str) -> Run | None:
        """The run it was, if it was one. No delta of it is left."""
        self._deltas.pop(request_id, None)
        return self._runs.pop(request_id, None)

    def advance(self, run: Run, portion: Portion) -> None:
        """Tokens arrived for it. What follows a stop condition is dropped; the run has ended then."""
        for place, token_id in enumerate(portion.token_ids):
            try:
                shown = self._show(run, token_id)
            except TokenizerFailed as error:
                self.fail(run, Fault.ENGINE_ERROR, str(error))
                return
            run.generated.append(token_id)
            self._collect(
                Delta(
                    request_id=run.id,
                    token_ids=(token_id,),
                    text=shown.text,
                    logprobs=tuple(portion.logprobs[place : place + 1]),
                    prompt_logprobs=() if place else tuple(portion.prompt_logprobs),
                    # Of what is generated on behind committed tokens the source's number counts those as well.
                    cached_tokens=portion.cached_tokens if len(run.generated) == 1 else None,
                    finish=shown.finish,
                )
            )
            if shown.finish:
                del self._runs[run.id]
                return

    def _show(self, run: Run, token_id: int) -> Shown:
        """Raises TokenizerFailed."""
        if not 0 <= token_id < self._folder.vocab_size:
            raise TokenizerFailed(f"token id {token_id} is outside the vocabulary of {self._folder.vocab_size}")
        return run.output.add(token_id)

    def fail(self, run: Run, fault: Fault | None, error: str) -> None:
        del self._runs[run.id]
        self._collect(_failed(run.id, fault, error))

    @property
    def news(self) -> bool:
        """Whether `take` would bring something."""
        return bool(self._deltas)

    def take(self) -> list[Delta]:
        """The deltas since the last call."""
        deltas, self._deltas = list(self._deltas.values()), {}
        return deltas

    def capacity(self, priority: int) -> Capacity:
        """What is free, and what runs of a lesser priority would yield."""
        before = [run for run in self if run.request.priority <= priority]
        return Capacity(
            requests=max(0, self._max_running - len(before)),
            tokens=max(0, self.room - sum(run.tokens for run in before)),
        )

    def chosen(self, running: Set[Run]) -> list[Run]:
        """Which runs should have a place: the most urgent. Of equals, one that has a place keeps it, then the earliest comes."""
        return sorted(self, key=lambda run: (run.request.priority, run not in running, run.arrival))[: self._max_running]

    def _collect(self, delta: Delta) -> None:
        # The log takes a request's tokens in one piece per step: a second piece would not begin where it stands.
        if (earlier := self._deltas.get(delta.request_id)) is not None:
            delta = replace(
                delta,
                token_ids=earlier.token_ids + delta.token_ids,
                text=earlier.text + delta.text,
                logprobs=earlier.logprobs + delta.logprobs,
                prompt_logprobs=earlier.prompt_logprobs + delta.prompt_logprobs,
                cached_tokens=earlier.cached_tokens,
            )
        self._deltas[delta.request_id] = delta

    def _problem(self, request: EngineRequest) -> str | None:
        """Why the request can never run, if so."""
        prompt, answer, context = len(request.prompt_ids), request.sampling.max_tokens, self._folder.context_length
        if (field := self._can.unsupported(request.sampling)) is not None:
            return self._can.refusal(field)
        if not prompt:
            return "the prompt is empty"
        if prompt + answer > context:
            return f"prompt ({prompt} tokens) and max_tokens ({answer}) exceed the model's context of {context}"
        if prompt + answer > self.room:
            return f"prompt ({prompt} tokens) and max_tokens ({answer}) exceed the engine's room for {self.room} tokens"
        vocabulary = self._folder.vocab_size
        named = (*request.prompt_ids, *request.committed_ids, *(token for token, _ in request.sampling.logit_bias))
        outside = next((i for i in named if not 0 <= i < vocabulary), None)
        if outside is not None:
            return f"token id {outside} is outside the vocabulary of {vocabulary}"
        return None


def _failed(request_id: str, fault: Fault | None, error: str) -> Delta:
    return Delta(request_id=request_id, finish=FinishReason.ERROR, fault=fault, error=error)

"""The paged engine: continuous batching over a block-pooled KV cache, behind the Engine port."""

import logging

import psutil
import torch

from headrace.errors import ModelUnavailable, TokenizerFailed
from headrace.model_folder import ModelFolder
from headrace.request import Sampling
from headrace.state import Fault
from headrace.tokenizer import Tokenizer
from workers.engine.config import EngineConfig
from workers.engine.logit_rules import LogitRules
from workers.engine.next_token import NextToken
from workers.engine.output import Output, end_ids_of
from workers.engine.planner import Plan, Planner
from workers.engine.runner import Computed, OutOfMemory, Runner
from workers.engine.sequence import Sequence
from workers.ports import Capacity, Delta, EngineRequest, EngineStats, FinishReason

logger = logging.getLogger(__name__)

WARM_UP_BLOCKS = 4
"""As many as `warm_up` fills. What it compiles and chooses does not depend on how many there are."""


class PagedEngine:
    """See `workers.ports.Engine`. `step` computes, so it never waits for its `timeout`."""

    def __init__(self, config: EngineConfig) -> None:
        """Loads the model. Raises ModelUnavailable, or SettingsError if the KV memory is too small for anything."""
        self._config = config
        self._folder = ModelFolder.read(config.model)
        self._tokenizer = Tokenizer(self._folder.tokenizer_file)
        self._runner = Runner(config, self._folder)
        self._block_size = config.block_size
        self._planner = self._new_planner(1)
        self._outputs: dict[str, Output] = {}
        self._early: list[Delta] = []
        """Deltas that need no step; the next one returns them."""
        self._process = psutil.Process()
        self._machine_memory = psutil.virtual_memory().total
        self._arrivals = 0
        self._steps = 0
        self._preemptions = 0
        self._computed_tokens = 0
        self._shrunk_steps = 0

    def warm_up(self) -> None:
        """Run a prompt and a few tokens through every part: kernels compile, memory is touched, libraries choose their code.

        No more than that, and in one batch: after a crash somebody waits for the end of it. Raises ModelUnavailable for a model that
        computes no numbers, OutOfMemory where not one token fits.
        """
        length = min(self._block_size + 1, self._folder.context_length - 2)
        self._open(min(WARM_UP_BLOCKS, self._runner.blocks))
        for name, sampling in (
            ("greedy", Sampling(max_tokens=2, temperature=0.0, seed=0)),
            ("drawn", Sampling(max_tokens=2, top_p=0.9, seed=0)),
        ):
            self.add(EngineRequest(request_id=name, prompt_ids=(0,) * length, sampling=sampling))
        while self._outputs or self._early:
            for delta in self.step(0):
                if delta.fault is Fault.RESOURCE_EXHAUSTED:  # there may be memory again when it is tried again
                    raise OutOfMemory(f"in the warm-up {delta.error}")
                if delta.fault is not None:
                    raise ModelUnavailable(f"{self._folder.path} cannot be served: in the warm-up {delta.error}")
        self._steps = self._preemptions = self._computed_tokens = 0

    def open(self) -> None:
        self._open(self._runner.blocks)

    def add(self, request: EngineRequest) -> None:
        if request.request_id in self._outputs:
            raise ValueError(f"request {request.request_id} is running already")
        problem = self._problem(request)
        if problem:
            self._early.append(Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=problem))
            return
        end_ids = end_ids_of(request.sampling, self._folder.eos_ids)
        output = Output(request.sampling, self._tokenizer, end_ids)
        try:
            finish = output.replay(request.committed_ids)
        except TokenizerFailed as error:
            self._early.append(_failed(request.request_id, Fault.ENGINE_ERROR, str(error)))
            return
        if finish:
            # The earlier run died between its last token, whose text is with the client, and the report of its end.
            self._early.append(Delta(request_id=request.request_id, finish=finish))
            return
        self._outputs[request.request_id] = output
        self._arrivals += 1
        self._planner.add(
            Sequence(
                id=request.request_id,
                tokens=[*request.prompt_ids, *request.committed_ids],
                prompt_length=len(request.prompt_ids),
                sampling=request.sampling,
                priority=request.priority,
                arrival=self._arrivals,
                salt=request.tenant,
                choice=request.choice,
                prompt_logprobs=[] if request.sampling.prompt_logprobs and not request.committed_ids else None,
                rules=LogitRules.of(
                    request.sampling,
                    {token for token in end_ids if 0 <= token < self._folder.vocab_size},
                    prompt_ids=request.prompt_ids,
                    generated_ids=request.committed_ids,
                ),
            )
        )

    def abort(self, request_id: str) -> None:
        self._early = [delta for delta in self._early if delta.request_id != request_id]
        if request_id in self._outputs:
            self._forget(request_id)

    def step(self, timeout: float) -> list[Delta]:
        early, self._early = self._early, []
        plan = self._planner.plan()
        if not plan.rows:
            return early
        try:
            computed = self._runner.run(plan)
        except OutOfMemory as error:
            return early + self._yield_to(plan, error)
        return early + self._account(plan, computed)

    def capacity(self, priority: int) -> Capacity:
        slots, tokens = self._planner.room(priority)
        return Capacity(requests=slots, tokens=tokens)

    def stats(self) -> EngineStats:
        used, total = self._memory()
        return EngineStats(
            device=str(self._runner.device),
            memory_used=used,
            memory_total=total,
            kv_tokens_used=self._planner.used_tokens,
            kv_tokens_total=self._runner.blocks * self._block_size,
            waiting=self._planner.waiting,
            running=self._planner.running,
            steps=self._steps,
            preemptions=self._preemptions,
            computed_tokens=self._computed_tokens,
            shrunk_steps=self._shrunk_steps,
            dtype=self._runner.dtype_name,
            kv_dtype=self._runner.kv_dtype_name,
        )

    @property
    def makeup(self) -> str:
        """What it computes with, in words for the log."""
        tokens, runner = self._runner.blocks * self._block_size, self._runner
        return (
            f"weights {runner.dtype_name}, cache {runner.kv_dtype_name}, {tokens} tokens in blocks of {self._block_size}, "
            f"{runner.computed_by} on {runner.device}"
        )

    def close(self) -> None:
        """Holds nothing that the process's end would not give back."""

    def _open(self, blocks: int) -> None:
        self._runner.open(blocks)
        self._planner = self._new_planner(blocks)

    def _new_planner(self, blocks: int) -> Planner:
        config = self._config
        return Planner(
            blocks=blocks,
            block_size=config.block_size,
            max_running=config.max_running,
            token_budget=config.token_budget,
            prefix_cache=config.prefix_cache,
        )

    def _memory(self) -> tuple[int, int]:
        """Bytes used and there are: of the process on a CPU, of the device elsewhere."""
        device = self._runner.device
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            return total - free, total
        if device.type == "mps":
            return torch.mps.driver_allocated_memory(), torch.mps.recommended_max_memory()
        return self._process.memory_info().rss, self._machine_memory

    def _problem(self, request: EngineRequest) -> str | None:
        """Why the request can never run, if so."""
        prompt, answer, context = len(request.prompt_ids), request.sampling.max_tokens, self._folder.context_length
        if not prompt:
            return "the prompt is empty"
        if prompt + answer > context:
            return f"prompt ({prompt} tokens) and max_tokens ({answer}) exceed the model's context of {context}"
        if not self._planner.fits(prompt + answer):
            pool = self._runner.blocks * self._block_size
            return f"prompt ({prompt} tokens) and max_tokens ({answer}) exceed the KV cache of {pool} tokens"
        named = (*request.prompt_ids, *request.committed_ids, *(token for token, _ in request.sampling.logit_bias))
        outside = next((i for i in named if not 0 <= i < self._folder.vocab_size), None)
        if outside is not None:
            return f"token id {outside} is outside the vocabulary of {self._folder.vocab_size}"
        return None

    def _account(self, plan: Plan, computed: Computed) -> list[Delta]:
        self._steps += 1
        self._computed_tokens += plan.token_count
        self._preemptions += len(plan.preempted)
        self._planner.account(plan)
        for row, scores in zip((row for row in plan.rows if row.targets), computed.scores, strict=True):
            self._planner[row.sequence_id].score(row.start, scores)
        sampled = (row.sequence_id for row in plan.rows if row.sampling is not None)
        return [self._accept(request_id, token) for request_id, token in zip(sampled, computed.tokens, strict=True)]

    def _accept(self, request_id: str, token: NextToken | None) -> Delta:
        """One new token of one request; None if the model computed nonsense for it."""
        if token is None:
            self._planner.spoil(request_id)
            return self._fail(request_id, Fault.ENGINE_ERROR, "the model's output for this request is not a number")
        try:
            shown = self._outputs[request_id].add(token.id)
        except TokenizerFailed as error:
            return self._fail(request_id, Fault.ENGINE_ERROR, str(error))
        sequence = self._planner[request_id]
        sequence.append(token.id)
        prompt_logprobs = sequence.take_scores()
        if shown.finish:
            self._forget(request_id)
        logprobs = () if token.logprobs is None else (token.logprobs,)
        return Delta(
            request_id=request_id,
            token_ids=(token.id,),
            text=shown.text,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            cached_tokens=sequence.cached if sequence.generated == 1 else None,
            finish=shown.finish,
        )

    def _yield_to(self, plan: Plan, error: OutOfMemory) -> list[Delta]:
        """Smaller steps are tried until there is nothing left to make smaller: then it is this one request that does not fit."""
        if self._planner.shrink(plan):
            self._shrunk_steps += 1
            logger.warning("a step of %d tokens ran out of memory: the next ones are smaller (%s)", plan.token_count, error)
            return []
        return [self._fail(plan.rows[0].sequence_id, Fault.RESOURCE_EXHAUSTED, f"a single token of it ran out of memory: {error}")]

    def _fail(self, request_id: str, fault: Fault, error: str) -> Delta:
        self._forget(request_id)
        return _failed(request_id, fault, error)

    def _forget(self, request_id: str) -> None:
        del self._outputs[request_id]
        self._planner.remove(request_id)


def _failed(request_id: str, fault: Fault, error: str) -> Delta:
    return Delta(request_id=request_id, finish=FinishReason.ERROR, fault=fault, error=error)

"""transformers' continuous batching: slower than our own engine, for any architecture that transformers has.

Its manager computes in a thread of its own and decides what a step computes. The choice of the next token is ours, so seeds and penalties
act as they do in our own engine.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, GenerationOutput, RequestState, RequestStatus

from headrace.errors import ModelUnavailable, SettingsError
from headrace.logprobs import Logprobs
from headrace.model_folder import ModelFolder
from headrace.request import Sampling
from headrace.state import Fault
from workers.backends.far import RunFailed, Task
from workers.backends.runs import Portion
from workers.engine.config import EngineConfig
from workers.engine.logit_rules import LogitRules
from workers.engine.next_token import next_tokens
from workers.engine.output import end_ids_of
from workers.engine.runner import choose_device
from workers.engine.sampler import Draw
from workers.ports import EngineRequest

WARM_UP_BLOCKS = 4
NO_TOKEN = -1
"""Never an end-of-text token: when an answer ends is our decision."""


class TransformersSource:
    def __init__(self, config: EngineConfig, folder: ModelFolder) -> None:
        """Loads the model. Raises ModelUnavailable, or SettingsError if the KV memory holds no block."""
        self._config = config
        self._device = choose_device(config.device)
        self._model = _load(folder, self._device)
        block_bytes = _block_bytes(self._model, config.block_size)
        self._blocks = config.kv_memory_mb * 2**20 // block_bytes
        if self._blocks < 1:
            raise SettingsError(
                f"HEADRACE_KV_MEMORY_MB={config.kv_memory_mb} holds no block of HEADRACE_BLOCK_SIZE={config.block_size} tokens, "
                f"which takes {block_bytes} bytes: raise the one or lower the other"
            )
        self._eos_ids = frozenset(token for token in folder.eos_ids if token < folder.vocab_size)
        self._choosing = Choosing()
        self._manager: Any = None  # the library's own, whose methods have no types

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def room(self) -> int:
        """Tokens in the cache, once it is open."""
        return self._blocks * self._config.block_size

    async def start(self) -> None:
        """Runs a prompt and a token through every part, in a small cache."""
        self._begin(WARM_UP_BLOCKS)
        request = EngineRequest(request_id="", prompt_ids=(0,) * 3, sampling=Sampling(max_tokens=2, top_p=0.9, seed=0))
        async for _ in self.generate(Task(name="warm-up", request=request, committed=())):
            pass
        self._end()

    async def open(self) -> int:
        self._begin(self._blocks)
        return self.room

    async def generate(self, task: Task) -> AsyncIterator[Portion]:
        manager, choosing = self._manager, self._choosing
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        manager.register_result_handler(task.name, outputs.put_nowait)
        choosing.listen(task.name)
        heard = 0
        try:
            added = manager.add_request(
                task.tokens,
                request_id=task.name,
                max_new_tokens=task.left,
                streaming=True,
                eos_token_id=NO_TOKEN,
                origin=Origin.of(task.request, end_ids_of(task.request.sampling, self._eos_ids)),
            )
            if added is None:
                raise RuntimeError(f"transformers takes no request: {manager.background_thread_status.fatal_error}")
            while heard < task.left:
                output = await outputs.get()
                if output.status is RequestStatus.FAILED:
                    # It fails requests only all at once, when its loop has died.
                    raise RuntimeError(f"transformers' generation loop ended: {output.error}")
                if task.name in choosing.unsound:
                    raise RunFailed(Fault.ENGINE_ERROR, "the model's output for this request is not a number")
                new = slice(heard, len(output.generated_tokens))
                heard = new.stop
                yield Portion(output.generated_tokens[new], choosing.told[task.name][new])
        finally:
            manager.cancel_request(task.name)
            manager.output_router.result_handlers.pop(task.name, None)
            choosing.forget(task.name)

    async def close(self) -> None:
        if self._manager is not None:
            self._end()

    def _begin(self, blocks: int) -> None:
        config = ContinuousBatchingConfig(
            page_size=self._config.block_size,
            num_blocks=blocks,
            max_batch_tokens=self._config.token_budget,
            max_requests_per_batch=self._config.max_running,
            # A draw is made between two steps, from what is known then: neither may be computed ahead nor recorded.
            use_async_batching=False,
            use_cuda_graph=False,
            allow_block_sharing=False,  # it has no salt: how soon a prompt is answered would tell one tenant what another has asked
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=NO_TOKEN, pad_token_id=0)  # type: ignore[no-untyped-call]  # transformers has none
        self._manager = self._model.init_continuous_batching(generation_config=generation, continuous_batching_config=config)
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._choosing]))
        processors.tensors_required = 1
        processors.supported_keys = Choosing.supported_kwargs
        self._manager.logit_processor = processors
        self._manager.start()

    def _end(self) -> None:
        self._manager.stop(block=True, hard_stop=True)
        self._manager = None


@dataclass(slots=True)
class Origin:
    """What is not in the library's own record of a request. The library copies it with that record."""

    sampling: Sampling
    choice: int
    prompt_length: int
    rules: LogitRules | None
    position: int
    """Tokens generated that the rules know of."""

    @classmethod
    def of(cls, request: EngineRequest, end_ids: Set[int]) -> "Origin":
        rules = LogitRules.of(request.sampling, end_ids, prompt_ids=request.prompt_ids, generated_ids=request.committed_ids)
        return cls(request.sampling, request.choice, len(request.prompt_ids), rules, len(request.committed_ids))

    def draw_behind(self, tokens: Sequence[int]) -> Draw:
        """The next token's, behind the prompt and all that was generated."""
        if self.rules is not None:
            for token in tokens[self.prompt_length + self.position :]:
                self.rules.add(token)
        self.position = len(tokens) - self.prompt_length
        return Draw(self.sampling, self.position, self.choice, self.rules)


class Choosing(ContinuousBatchingLogitsProcessor):
    """Leaves the library one token to choose: ours. It is called once for the requests of a step and then with their logits."""

    supported_kwargs: dict[str, type] = {"origin": Origin}  # noqa: RUF012  # as the base class has it
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._draws: list[Draw] = []
        self._names: list[str] = []
        self.unsound: set[str] = set()
        """Requests whose logits were not numbers."""
        self.told: dict[str, list[Logprobs]] = {}
        """Of each token of the requests that ask for them; nothing of requests that nobody listens to any more."""

    def listen(self, name: str) -> None:
        self.told[name] = []

    def forget(self, name: str) -> None:
        self.unsound.discard(name)
        self.told.pop(name, None)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[FutureRequestState]) -> Tensor:
        states = [request.state for request in requests_with_new_token]
        # Initial tokens grow when a request is taken out of a full cache: they are all that was known when it was put in last.
        self._draws = [_origin(state).draw_behind(state.initial_tokens + state.generated_tokens) for state in states]
        self._names = [state.request_id for state in states]
        return torch.zeros(len(states), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """(S, vocab) → the same, zero at the chosen token and −∞ elsewhere."""
        tokens = next_tokens(scores, self._draws)
        for name, token in zip(self._names, tokens, strict=True):
            if (told := self.told.get(name)) is None:
                continue  # cancelled while the step was on its way
            if token is None:
                self.unsound.add(name)
            elif token.logprobs is not None:
                told.append(token.logprobs)
        chosen = torch.tensor([0 if token is None else token.id for token in tokens], device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen[:, None], 0.0)


def _origin(state: RequestState) -> Origin:
    origin: Origin = state.logit_processor_kwargs["origin"]
    return origin


def _load(folder: ModelFolder, device: torch.device) -> Any:
    # bfloat16 is several times slower than float32 on CPUs without instructions for it.
    dtype = torch.float32 if device.type == "cpu" else "auto"
    load = partial(AutoModelForCausalLM.from_pretrained, folder.path, dtype=dtype, attn_implementation="sdpa")
    try:
        model: Any = load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnavailable(f"transformers cannot load {folder.path}: {error}") from error
    return model.to(device)


def _block_bytes(model: Any, block_size: int) -> int:
    """Keys and values of `block_size` tokens in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize * block_size)

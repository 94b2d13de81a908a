"""transformers' continuous batching: slower than our own engine, for any architecture that transformers has.

Its manager computes in a thread of its own and decides what a step computes. The choice of the next token is ours, so seeds and penalties
act as they do in our own engine.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
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
from headrace.model_folder import ModelFolder
from headrace.request import Sampling
from headrace.state import Fault
from workers.backends.far import RunFailed, Task
from workers.backends.runs import Portion
from workers.engine.config import EngineConfig
from workers.engine.runner import choose_device
from workers.engine.sampler import Draw, sample
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
            raise SettingsError(f"HEADRACE_KV_MEMORY_MB={config.kv_memory_mb} holds no block of {block_bytes} bytes")
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
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        self._manager.register_result_handler(task.name, outputs.put_nowait)
        origin = Origin(task.request.sampling, task.request.choice, len(task.request.prompt_ids))
        try:
            added = self._manager.add_request(
                task.tokens, request_id=task.name, max_new_tokens=task.left, streaming=True, eos_token_id=NO_TOKEN, origin=origin
            )
            if added is None:
                raise RuntimeError(f"transformers takes no request: {self._manager.background_thread_status.fatal_error}")
            heard = 0
            while heard < task.left:
                output = await outputs.get()
                if output.status is RequestStatus.FAILED:
                    # It fails requests only all at once, when its loop has died.
                    raise RuntimeError(f"transformers' generation loop ended: {output.error}")
                new, heard = output.generated_tokens[heard:], len(output.generated_tokens)
                if task.name in self._choosing.unsound:
                    raise RunFailed(Fault.ENGINE_ERROR, "the model's output for this request is not a number")
                yield Portion(new)
        finally:
            self._choosing.unsound.discard(task.name)
            self._manager.output_router.result_handlers.pop(task.name, None)
            self._manager.cancel_request(task.name)

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
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=NO_TOKEN, pad_token_id=0)  # type: ignore[no-untyped-call]
        self._manager = self._model.init_continuous_batching(generation_config=generation, continuous_batching_config=config)
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._choosing]))
        processors.tensors_required = 1
        processors.supported_keys = Choosing.supported_kwargs
        self._manager.logit_processor = processors
        self._manager.start()

    def _end(self) -> None:
        self._manager.stop(block=True, hard_stop=True)
        self._manager = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What is not in the library's own record of a request."""

    sampling: Sampling
    choice: int
    prompt_length: int


class Choosing(ContinuousBatchingLogitsProcessor):
    """Leaves the library one token to choose: ours. It is called once for the requests of a step and then with their logits."""

    supported_kwargs: dict[str, type] = {"origin": Origin}  # noqa: RUF012  # as the base class has it
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._draws: list[Draw] = []
        self._names: list[str] = []
        self.unsound: set[str] = set()
        """Requests whose logits were not numbers."""

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[FutureRequestState]) -> Tensor:
        states = [request.state for request in requests_with_new_token]
        self._draws = [_draw(state) for state in states]
        self._names = [state.request_id for state in states]
        return torch.zeros(len(states), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """(S, vocab) → the same, zero at the chosen token and −∞ elsewhere."""
        tokens = sample(scores, self._draws)
        self.unsound.update(name for name, token in zip(self._names, tokens, strict=True) if token is None)
        chosen = torch.tensor([token or 0 for token in tokens], device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen[:, None], 0.0)


def _draw(state: RequestState) -> Draw:
    origin: Origin = state.logit_processor_kwargs["origin"]
    # Its initial tokens grow when it is taken out of a full cache: they are all that was known when it was put in last.
    position = len(state.initial_tokens) + state.generated_len() - origin.prompt_length
    return Draw(origin.sampling, position, origin.choice)


def _load(folder: ModelFolder, device: torch.device) -> Any:
    # bfloat16 is several times slower than float32 on CPUs without instructions for it.
    dtype = torch.float32 if device.type == "cpu" else "auto"
    load = partial(AutoModelForCausalLM.from_pretrained, folder.path, dtype=dtype, attn_implementation="sdpa")
    try:
        return load().to(device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnavailable(f"transformers cannot load {folder.path}: {error}") from error


def _block_bytes(model: Any, block_size: int) -> int:
    """Keys and values of `block_size` tokens in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize * block_size)

"""The runner computes a plan: plan → tensors → logits of the sampled rows → their next tokens."""

import logging
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.counted import counted
from headrace.errors import ModelUnavailable, SettingsError
from headrace.logprobs import Logprobs
from headrace.model_folder import ModelFolder
from workers.engine.attention import Attention, Batch, TorchAttention
from workers.engine.config import EngineConfig
from workers.engine.kernels import has_kernels
from workers.engine.kv_cache import KvCache
from workers.engine.linear import linear_maker
from workers.engine.models.decoder import HEAD, Decoder
from workers.engine.models.registry import read_shape
from workers.engine.models.shape import Shape
from workers.engine.models.weights import Weights
from workers.engine.next_token import NextToken, next_tokens, tell
from workers.engine.planner import Plan
from workers.engine.processors import count_processors
from workers.engine.sampler import Draw

logger = logging.getLogger(__name__)

_DERIVED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
"""In checkpoints of early transformers. They follow from config.json."""
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
"""Every type that weights have outside of int8, and caches."""


class OutOfMemory(Exception):
    """A step did not fit the device's memory. Nothing was computed that running it again would not overwrite."""


class Computed(NamedTuple):
    """What came of a plan, in the order of its rows."""

    tokens: list[NextToken | None]
    """Of each row that samples; None where its logits are not numbers."""
    scores: list[list[Logprobs]]
    """Of each row that has targets."""


class Runner:
    """A model on one device and, once `open`, its KV cache."""

    def __init__(self, config: EngineConfig, folder: ModelFolder) -> None:
        """Raises ModelUnavailable if the model cannot be loaded, SettingsError if the KV memory holds no block."""
        self.device = choose_device(config.device)
        self._kv_memory_mb = config.kv_memory_mb
        if config.batch_invariant and not has_kernels(self.device):
            raise SettingsError(f"HEADRACE_BATCH_INVARIANT=true is for CPUs with AVX2, FMA and F16C or of ARM, the device is {self.device}")
        shape = read_shape(folder.path)
        dtype, kv_dtype = _dtypes(config, shape, self.device)
        self.dtype_name = "int8" if config.dtype == "int8" else _NAMES[dtype]
        """Of the weights."""
        self.kv_dtype_name = _NAMES[kv_dtype]
        self.blocks = _count_blocks(config, shape, kv_dtype)
        self._new_cache = partial(
            KvCache,
            layers=len(shape.layers),
            block_size=config.block_size,
            kv_heads=shape.heads.kv,
            head_dim=shape.heads.dim,
            slots=config.max_running,
            blocks_per_slot=-(-folder.context_length // config.block_size),
            device=self.device,
            dtype=kv_dtype,
        )
        self._heads, self._layers = shape.heads, shape.layers
        if has_kernels(self.device):
            from workers.engine.cpu import compiled  # numba takes a while to import and is of use on CPUs only

            compiled.be_the_only_pool()
            self.computed_by = f"compiled kernels, {counted(compiled.THREADS, 'thread')}"
        elif self.device.type == "cpu":
            torch.set_num_threads(min(torch.get_num_threads(), count_processors()))
            self.computed_by = f"torch, {counted(torch.get_num_threads(), 'thread')}"
        else:
            self.computed_by = "torch"
        with torch.inference_mode():
            weights = Weights(folder.path, device=self.device, dtype=dtype)
            self._model = Decoder(shape, weights, self.device, linear_maker(config.dtype))
        if left := [name for name in weights.left if not name.endswith(_DERIVED) and not (shape.tied and name == HEAD)]:
            logger.warning(
                "%s holds %d tensors that its config.json has no place for, such as %s: is it of this checkpoint?",
                folder.path,
                len(left),
                left[0],
            )

    def open(self, blocks: int) -> None:
        """Make the KV cache, in place of an earlier one. Must precede `run`. Raises SettingsError if the memory is not granted."""
        try:
            with torch.inference_mode():
                self._cache = self._new_cache(blocks=blocks)
        except MemoryError as error:
            raise SettingsError(f"HEADRACE_KV_MEMORY_MB={self._kv_memory_mb} cannot be had here: {_first_line(error)}") from error
        self._attention = self._make_attention()

    def _make_attention(self) -> Attention:
        if not has_kernels(self.device):
            return TorchAttention(self._cache, self._heads, self._layers)
        from workers.engine.cpu.attention import CpuAttention  # as above

        return CpuAttention(self._cache, self._heads, self._layers)

    def run(self, plan: Plan) -> Computed:
        """Raises OutOfMemory.

        Running a plan again is harmless: it writes the same keys and values to the same places.
        """
        draws = [Draw(row.sampling, row.position, row.choice, row.rules) for row in plan.rows if row.sampling is not None]
        with torch.inference_mode():
            # Not under `try`: a plan made again does not name these blocks again, so a failure here is the engine's.
            for row in plan.rows:
                if row.new_blocks:
                    self._cache.assign(row.slot, row.first_block, row.new_blocks)
            if new := [block for row in plan.rows for block in row.new_blocks[row.filled :]]:
                self._cache.clear(new)
        try:
            with torch.inference_mode():
                logits = self._model(self._batch(plan), self._attention)
                scores = _score(logits[len(draws) :], plan)
                return Computed(next_tokens(logits[: len(draws)], draws) if draws else [], scores)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(_first_line(error)) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # torch's CPU allocator has no exception class of its own
                raise
            raise OutOfMemory(_first_line(error)) from error

    def _batch(self, plan: Plan) -> Batch:
        token_ids: list[int] = []
        positions: list[int] = []
        sampled: list[int] = []
        scored: list[int] = []
        for row in plan.rows:
            scored += range(len(token_ids), len(token_ids) + len(row.targets))
            token_ids += row.token_ids
            positions += range(row.start, row.start + len(row.token_ids))
            if row.sampling is not None:
                sampled.append(len(token_ids) - 1)
        return Batch(
            token_ids=torch.tensor(token_ids, device=self.device),
            positions=torch.tensor(positions, device=self.device),
            slots=tuple(row.slot for row in plan.rows),
            starts=tuple(row.start for row in plan.rows),
            counts=tuple(len(row.token_ids) for row in plan.rows),
            sampled=torch.tensor(sampled + scored, dtype=torch.int64, device=self.device),
        )


def _score(logits: Tensor, plan: Plan) -> list[list[Logprobs]]:
    """`logits`: of the places before the targets of all rows, in turn. They are no more than a step's tokens, and not kept."""
    rows = [row for row in plan.rows if row.targets]
    if not rows:
        return []
    told = iter(tell(logits, [token for row in rows for token in row.targets], [row.alternatives for row in rows for _ in row.targets]))
    return [[next(told) for _ in row.targets] for row in rows]


def kv_tokens(config: EngineConfig) -> int:
    """What the KV cache of a Runner would hold, told without loading a model. Raises as it does."""
    shape = read_shape(config.model)
    _, kv_dtype = _dtypes(config, shape, choose_device(config.device))
    return _count_blocks(config, shape, kv_dtype) * config.block_size


def _dtypes(config: EngineConfig, shape: Shape, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Of the activations and of the KV cache."""
    # bfloat16 is several times slower than float32 on CPUs without instructions for it.
    dtype = shape.dtype if config.dtype == "auto" and device.type != "cpu" else torch.float32
    if config.kv_dtype != "auto":
        return dtype, {"fp16": torch.float16, "fp32": torch.float32}[config.kv_dtype]
    # What halves cost in quality is a fiftieth of what weights in 8 bits do.
    return dtype, torch.float16 if config.dtype == "int8" else dtype


def _count_blocks(config: EngineConfig, shape: Shape, kv_dtype: torch.dtype) -> int:
    block_bytes = KvCache.block_bytes(
        layers=len(shape.layers), block_size=config.block_size, kv_heads=shape.heads.kv, head_dim=shape.heads.dim, dtype=kv_dtype
    )
    blocks = config.kv_memory_mb * 2**20 // block_bytes
    if blocks < 1:
        raise SettingsError(
            f"HEADRACE_KV_MEMORY_MB={config.kv_memory_mb} holds no block of HEADRACE_BLOCK_SIZE={config.block_size} tokens, "
            f"which takes {block_bytes} bytes: raise the one or lower the other"
        )
    return blocks


def choose_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that works here. Raises ModelUnavailable for a device that does not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # there is one, meta, of which nothing can be read
    except (RuntimeError, AssertionError) as error:
        raise ModelUnavailable(f"HEADRACE_DEVICE={name!r} is no device that torch can use here: {str(error).splitlines()[0]}") from error
    return device


def _first_line(error: BaseException) -> str:
    """A CUDA allocator's message is a paragraph, and a MemoryError has none."""
    return (str(error) or type(error).__name__).splitlines()[0]

"""What an engine is built from. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    model: Path
    """A Hugging Face folder."""
    dtype: Literal["auto", "fp32", "int8"] = "auto"
    """Of the weights. auto: fp32 on a CPU, elsewhere the checkpoint's own. int8: on CPUs only; activations have 16 bits then."""
    kv_dtype: Literal["auto", "fp16", "fp32"] = "auto"
    """Of the KV cache. auto: fp16 beside weights in int8, else that of the activations."""
    batch_invariant: bool = False
    """A row's result must not depend on the rows beside it. On a CPU it never does; elsewhere it cannot be had."""
    prefix_cache: bool = True
    """Keep the keys and values of ended sequences while there is room, for those that begin alike."""
    device: str = "auto"
    max_running: int = 64
    """Sequences in one step at most."""
    token_budget: int = 512
    """Tokens in one step at most."""
    kv_memory_mb: int = 1024
    """Memory of the KV cache, fixed for life."""
    block_size: int = 16
    """Tokens in one block of it; a multiple of 4, which is how many keys the CPU kernel takes at a time."""

    def __post_init__(self) -> None:
        for name in ("max_running", "token_budget", "kv_memory_mb", "block_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.block_size % 4:
            raise ValueError(f"block_size must be a multiple of 4, got {self.block_size}")

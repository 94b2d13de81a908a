"""Whether the compiled kernels in `cpu` are for a device, or torch has to do their work."""

import logging
from functools import cache

import torch
from torch import Tensor

from headrace.errors import SettingsError
from workers.engine.activations import Activations

logger = logging.getLogger(__name__)


def has_kernels(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """They are for processors, float32, and the instructions that they are made of. Raises SettingsError where numba refuses its own."""
    return device.type == "cpu" and dtype == torch.float32 and not _lacking()


def activations_of(x: Tensor) -> Activations:
    """`x` as the layers of its device take it; an array shares its memory."""
    return x.numpy() if has_kernels(x.device, x.dtype) else x


@cache
def _lacking() -> tuple[str, ...]:
    try:
        from workers.engine.cpu.compiled import lacking  # numba takes a while to import and is of use on CPUs only
    except ValueError as error:  # NUMBA_NUM_THREADS=0
        raise SettingsError(f"numba cannot be used with these NUMBA_* variables: {error}") from error

    if names := lacking():
        logger.warning(
            "this processor lacks %s, which the compiled kernels need: torch computes instead, slower, not in int8 and not batch-invariant",
            ", ".join(names),
        )
    return names

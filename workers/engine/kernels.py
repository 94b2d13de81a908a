"""Whether the compiled kernels in `cpu` are for a device, or torch has to do their work."""

import logging
from functools import cache

import torch

logger = logging.getLogger(__name__)


def has_kernels(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """They are for processors, float32, and the instructions that they are made of."""
    return device.type == "cpu" and dtype == torch.float32 and not _lacking()


@cache
def _lacking() -> tuple[str, ...]:
    from workers.engine.cpu.compiled import lacking  # numba takes a while to import and is of use on CPUs only

    if names := lacking():
        logger.warning(
            "this processor lacks %s, which the compiled kernels need: torch computes instead, slower, not in int8 and not batch-invariant",
            ", ".join(names),
        )
    return names

from pathlib import Path
from typing import Any

import pytest

from workers.engine.config import EngineConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_running": 0}, "max_running must be at least 1, got 0"),
        ({"kv_memory_mb": -1}, "kv_memory_mb must be at least 1, got -1"),
        ({"block_size": 6}, "block_size must be a multiple of 4, got 6"),
    ],
)
def test_a_value_out_of_range_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(model=Path("x"), **fields)

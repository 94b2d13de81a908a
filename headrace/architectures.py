"""Which models the paged engine runs, by name: here, so that one it does not run is refused before any process is started. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import ModelUnavailable

PAGED = (
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
)
"""docs/models.md shows them."""


def paged_architecture(config: Mapping[str, Any], file: Path) -> str:
    """The first of `architectures` in a model's config.json, which was read from `file`. Raises ModelUnavailable for one that is not among
    PAGED, naming them."""
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    if architecture not in PAGED:
        raise unsupported(file, f"architecture {architecture!r}", *PAGED)
    return str(architecture)


def unsupported(file: Path, what: str, *supported: str) -> ModelUnavailable:
    choice = f"; supported: {', '.join(supported)}" if supported else ""
    return ModelUnavailable(f"{file}: {what} is not supported{choice}. HEADRACE_ENGINE=transformers serves other models")

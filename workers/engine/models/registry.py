"""Which architectures the paged engine runs."""

from collections.abc import Callable, Mapping
from pathlib import Path

from workers.engine.models import gemma3, llama, mistral, qwen2, qwen3, smollm3
from workers.engine.models.config import Config
from workers.engine.models.shape import Shape

ARCHITECTURES: Mapping[str, Callable[[Config], Shape]] = {
    "Gemma3ForCausalLM": gemma3.read_shape,
    "LlamaForCausalLM": llama.read_shape,
    "MistralForCausalLM": mistral.read_shape,
    "Qwen2ForCausalLM": qwen2.read_shape,
    "Qwen3ForCausalLM": qwen3.read_shape,
    "SmolLM3ForCausalLM": smollm3.read_shape,
}
"""By the first of `architectures` in config.json: those of headrace/architectures.py."""


def read_shape(folder: Path) -> Shape:
    """The shape of the model in `folder`. Raises ModelUnavailable for one that is not supported, naming what is."""
    config = Config(folder)
    return ARCHITECTURES[config.architecture()](config)

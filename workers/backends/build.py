"""From settings to an engine: the composition root of what generates. Each adapter is imported only where it is chosen."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from headrace.capabilities import AUTO, CAPABILITIES, check_installed, has_vllm
from headrace.errors import SettingsError
from headrace.model_folder import ModelFolder
from headrace.settings import Settings
from headrace.tokenizer import Tokenizer
from workers.backends.far import FarEngine, Source
from workers.backends.runs import Runs
from workers.convert import ensure_folder
from workers.engine.config import EngineConfig
from workers.ports import Engine

logger = logging.getLogger(__name__)

_OF_PAGED = ("dtype", "kv_dtype")


def build_engine(settings: Settings) -> Engine:
    """Loads the model, but for engines that do so when they are warmed up. Raises ModelUnavailable, SettingsError."""
    name = choose_engine(settings.engine, vllm=has_vllm(), cuda=lambda: _has_cuda(settings.device))
    if settings.batch_invariant and not CAPABILITIES[name].batch_invariant:
        raise SettingsError(f"HEADRACE_BATCH_INVARIANT=true is not to be had from the engine {name!r}, only from 'paged' on a CPU")
    check_installed(name)
    if name != "paged" and (ignored := [f"HEADRACE_{field.upper()}" for field in _OF_PAGED if field in settings.model_fields_set]):
        logger.warning("the engine is %s, which ignores %s", name, " and ".join(ignored))
    path = ensure_folder(settings.model, settings.cache_dir)  # the API reads the tokenizer from it, whatever the engine
    folder = ModelFolder.read(path, settings.served_model, max_context=settings.max_context)
    logger.info("the engine is %s", name)
    return _BUILDERS[name](Order(name, settings, folder))


def choose_engine(setting: str, *, vllm: bool, cuda: Callable[[], bool]) -> str:
    """What `auto` means here. `cuda` is asked only where the answer matters: it imports torch."""
    if setting != AUTO:
        return setting
    return "vllm" if vllm and cuda() else "paged"


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    settings: Settings
    folder: ModelFolder


def _scripted(order: Order) -> Engine:
    from workers.backends.scripted import ScriptedEngine

    return ScriptedEngine(max_running=order.settings.max_running)


def _paged(order: Order) -> Engine:
    from workers.engine.engine import PagedEngine
    from workers.engine.kernels import has_kernels
    from workers.engine.precision import choose_dtype
    from workers.engine.runner import choose_device, kv_tokens

    config = _config(order)
    _check_memory(config)
    if config.dtype == "auto" and has_kernels(choose_device(config.device)):
        # First, with the most it may come to hold: to measure what weights are to be takes a while.
        check_room(kv_tokens(replace(config, dtype="int8")), order)
        config = replace(config, dtype=choose_dtype(config, order.settings.cache_dir))
    check_room(kv_tokens(config), order)
    engine = PagedEngine(config)
    logger.info("%s", engine.makeup)
    return engine


def _config(order: Order) -> EngineConfig:
    settings = order.settings
    return EngineConfig(
        model=order.folder.path,
        device=settings.device,
        dtype=settings.dtype,
        kv_dtype=settings.kv_dtype,
        batch_invariant=settings.batch_invariant,
        prefix_cache=settings.prefix_cache,
        max_running=settings.max_running,
        token_budget=settings.token_budget,
        kv_memory_mb=settings.kv_memory_mb,
        block_size=settings.block_size,
    )


def _check_memory(config: EngineConfig) -> None:
    """Only of a CPU: other devices grant a cache at once, or refuse it."""
    from workers.engine.memory import check_kv_memory, read_memory
    from workers.engine.runner import choose_device

    if choose_device(config.device).type == "cpu":
        check_kv_memory(config.kv_memory_mb, read_memory())


def check_room(room: int, order: Order) -> None:
    """The API accepts whatever fits the context, and what it accepts must be able to run. Raises SettingsError."""
    context, settings = order.folder.context_length, order.settings
    if room < context:
        size = settings.block_size
        enough = -(-settings.kv_memory_mb * -(-context // size) // (room // size))
        raise SettingsError(
            f"HEADRACE_KV_MEMORY_MB={settings.kv_memory_mb} holds {room} tokens, less than the context of {context}: "
            f"raise it to {enough}, or lower HEADRACE_MAX_CONTEXT to {room}"
        )


@contextmanager
def _importing(order: Order) -> Iterator[None]:
    """What is installed may be another version, or lack what it needs itself: starting again would not help."""
    try:
        yield
    except ImportError as error:
        raise SettingsError(f"HEADRACE_ENGINE={order.name}: the {order.name} that is installed here cannot be used: {error}") from error


def _transformers(order: Order) -> Engine:
    with _importing(order):
        from workers.backends.transformers_source import TransformersSource

    config = _config(order)
    _check_memory(config)
    source = TransformersSource(config, order.folder)
    check_room(source.room, order)
    return _far(source, order)


def _vllm(order: Order) -> Engine:
    with _importing(order):
        from workers.backends.vllm_source import VllmSource

    # Its own default, most of a GPU's memory, is a better one than ours.
    given = order.settings.kv_memory_mb if "kv_memory_mb" in order.settings.model_fields_set else None
    return _far(VllmSource(_config(order), order.folder, kv_memory_mb=given), order)


def _openai(order: Order) -> Engine:
    from workers.backends.upstream_source import Upstream, UpstreamSource

    settings = order.settings
    url = settings.upstream_url or ""
    if not url.startswith(("http://", "https://")):
        raise SettingsError("HEADRACE_ENGINE=openai needs HEADRACE_UPSTREAM_URL, which begins with http:// or https://")
    # Each of its requests would be a line of our log.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    upstream = Upstream(
        url=url,
        model=settings.upstream_model or settings.served_model,
        key=settings.upstream_key,
        silence_s=settings.upstream_silence_s,
    )
    return _far(UpstreamSource(upstream, order.folder, max_running=settings.max_running), order)


def _far(source: Source, order: Order) -> Engine:
    folder, settings = order.folder, order.settings
    runs = Runs(folder, Tokenizer(folder.tokenizer_file), CAPABILITIES[order.name], max_running=settings.max_running)
    return FarEngine(source, runs)


_BUILDERS: Mapping[str, Callable[[Order], Engine]] = {
    "paged": _paged,
    "scripted": _scripted,
    "transformers": _transformers,
    "vllm": _vllm,
    "openai": _openai,
}


def _has_cuda(device: str) -> bool:
    from workers.engine.runner import choose_device

    return choose_device(device).type == "cuda"

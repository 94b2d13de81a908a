"""Whether a model may run in 8 bits on a CPU: its perplexity on a fixed text, in fp32 and in int8, measured once and remembered."""

import contextlib
import ctypes
import gc
import hashlib
import json
import logging
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Literal

from headrace.logprobs import Logprobs
from headrace.model_folder import ModelFolder
from headrace.request import Sampling
from headrace.tokenizer import Tokenizer
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.engine.next_token import UNLIKELY
from workers.ports import Delta, EngineRequest, FinishReason

logger = logging.getLogger(__name__)

MOST_WORSE = 0.01
"""Perplexity in int8 may exceed that in fp32 by this share."""
_TOKENS = 2_048
"""Of the text. The difference is known to about a quarter of a percent then: ± 0.22 for the demo model."""
_WINDOW = 512
_COMPARED: tuple[Literal["int8", "fp32"], ...] = ("int8", "fp32")
_METHOD = 3
"""Counts up whenever what was measured before no longer holds: another text, other kernels."""


def choose_dtype(config: EngineConfig, cache_dir: Path) -> Literal["fp32", "int8"]:
    """int8 unless the text says that it costs too much. The first time for a model it takes two readings of the text, and what it takes to
    compile kernels where there are none yet: for a small model a minute and a half. Raises ModelUnavailable for one that cannot be loaded.
    """
    verdict = cache_dir / "precision" / f"{_fingerprint(config.model)}.json"
    worse = _recall(verdict)
    if worse is None:
        worse = _measure(config)
        _remember(verdict, worse)
    if math.isnan(worse):
        logger.warning("weights are fp32: of the fixed text not every token has a probability in both fp32 and int8")
        return "fp32"
    chosen: Literal["fp32", "int8"] = "int8" if worse <= MOST_WORSE else "fp32"
    logger.info("weights are %s: in int8 the perplexity of the fixed text is %+.2f %% of that in fp32", chosen, 100 * worse)
    return chosen


def perplexity(config: EngineConfig) -> float:
    """Of the fixed text. NaN unless every token of it has a probability: what has none is the worst of the text, and a mean without it
    would be better than the model.
    """
    logprobs = [told.chosen for told in read_text(config)]
    if not logprobs or min(logprobs) <= UNLIKELY:
        return math.nan
    return math.exp(-sum(logprobs) / len(logprobs))


def read_text(config: EngineConfig, *, top: int = 0) -> list[Logprobs]:
    """Of every token of the fixed text but the first of each of its windows, which begin anew; with the `top` likeliest at its place. A
    window that the engine gave up is one UNLIKELY token, and after a window with one nothing more is read.
    """
    engine = PagedEngine(replace(config, prefix_cache=False, max_running=4))
    engine.open()
    logger.info("measuring how well %s does with weights in %s; this is done once for a model", config.model.name, config.dtype)
    folder = ModelFolder.read(config.model)
    ids = Tokenizer(folder.tokenizer_file).encode(resources.files(__package__).joinpath("fixed_text.txt").read_text(encoding="ascii"))[
        :_TOKENS
    ]
    window = min(_WINDOW, folder.context_length - 1, engine.stats().kv_tokens_total - 1)
    logprobs: list[Logprobs] = []
    for start in range(0, len(ids) - 1, window):
        scores = _score(engine, tuple(ids[start : start + window]), top)
        logprobs += scores
        if any(told.chosen <= UNLIKELY for told in scores):
            break
    return logprobs


def _score(engine: PagedEngine, ids: tuple[int, ...], top: int) -> list[Logprobs]:
    """Of each of `ids` but the first; an UNLIKELY one alone if the engine gave the window up."""
    sampling = Sampling(max_tokens=1, seed=0, logprobs=top, prompt_logprobs=True)
    engine.add(EngineRequest(request_id="text", prompt_ids=ids, sampling=sampling))
    deltas: list[Delta] = []
    while not any(delta.finish for delta in deltas):
        deltas += engine.step(0)
    if any(delta.finish is FinishReason.ERROR for delta in deltas):
        logger.warning("a part of the fixed text failed: %s", deltas[-1].error)
        return [Logprobs(UNLIKELY)]
    return [told for delta in deltas for told in delta.prompt_logprobs]


def _measure(config: EngineConfig) -> float:
    """By how much more; NaN if one of the two is."""
    found: list[float] = []
    for dtype in _COMPARED:
        found.append(perplexity(replace(config, dtype=dtype)))
        give_back()
        if math.isnan(found[-1]):
            return math.nan
    int8, fp32 = found
    return int8 / fp32 - 1


def give_back() -> None:
    """What was freed, to the system: the allocator keeps the memory of weights for itself, and the process is there to stay."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # only glibc's has it, and needs it
        ctypes.CDLL(None).malloc_trim(0)


def _fingerprint(folder: Path) -> str:
    """Of the model, without reading its gigabytes: a file that changes gets another time or size."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([_METHOD, str(folder.resolve()), stats]).encode()).hexdigest()[:32]


def _recall(verdict: Path) -> float | None:
    """None where there is none, or something else in its place."""
    try:
        worse = json.loads(verdict.read_text(encoding="utf-8"))["worse"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return worse if isinstance(worse, float) else None


def _remember(verdict: Path, worse: float) -> None:
    try:
        verdict.parent.mkdir(parents=True, exist_ok=True)
        unfinished = verdict.with_suffix(".new")
        unfinished.write_text(json.dumps({"worse": worse}), encoding="utf-8")
        unfinished.replace(verdict)
    except OSError as error:
        logger.warning("the precision of the weights is measured anew at every start: cannot write %s (%s)", verdict, error)

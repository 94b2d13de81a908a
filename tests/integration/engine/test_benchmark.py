"""The benchmark's runner of the paged engine, on a tiny model."""

import pytest

from benchmarks import roofline
from benchmarks.engines.paged import Clock, measure_limits, run
from benchmarks.item import Item
from tests.integration.engine.conftest import MakeModel
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine


@pytest.mark.parametrize(
    "fields", [{"kind": "llama"}, {"kind": "gemma3_text", "head_dim": 16, "sliding_window": 16}], ids=["llama", "gemma3"]
)
def test_every_token_is_in_the_account(make_model: MakeModel, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "PROBED_BYTES", 2**16)
    model = make_model(**fields)
    engine = PagedEngine(EngineConfig(model=model, device="cpu", token_budget=16, kv_memory_mb=4))
    engine.open()
    limits = measure_limits(engine._runner, model)
    clock = Clock(engine._runner)
    items = [Item(tuple(range(30)), 5), Item(tuple(range(7)), 9)]

    figures = run(engine, items).figures()

    steps = clock.steps()
    assert figures.output_tokens == sum(step.sampled for step in steps) == 14
    assert sum(step.tokens for step in steps) == 30 + 7 + 14 - 2, "the last token of each is not computed any more"
    told = roofline.account(steps, limits, seconds=figures.seconds, output_tokens=14)
    assert told["prefill"]["tokens"] + told["decode"]["tokens"] == 49
    assert told["roofline_tokens_per_s"] > 0

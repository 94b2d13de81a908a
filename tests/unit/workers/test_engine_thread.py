from dataclasses import replace
from types import SimpleNamespace

import pytest

from headrace.testing.builders import make_request
from tests.at_work import InlineEngine
from workers.backends.scripted import ScriptedEngine
from workers.engine_thread import EngineThread
from workers.pace import STEPS
from workers.ports import EngineRequest, EngineStats


async def test_what_is_claimed_and_cancelled_in_one_turn_does_not_run() -> None:
    thread, request = EngineThread(ScriptedEngine()), make_request()
    run = EngineRequest(request_id="job@1", prompt_ids=request.prompt_ids, sampling=request.sampling)
    outcome = await thread.turn([run], ["job@1"])
    thread.close()
    assert outcome.deltas == []
    assert outcome.stats.running == 0


class Laggard(ScriptedEngine):
    """Computes a token a step, in the time that the test says."""

    def stats(self) -> EngineStats:
        stats = super().stats()
        return replace(stats, device="cpu", computed_tokens=stats.steps)


async def test_steps_that_take_far_longer_are_told_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = {"now": 0.0, "step": 0.05}

    def monotonic() -> float:
        clock["now"] += clock["step"]
        return clock["now"]

    monkeypatch.setattr("workers.engine_thread.time", SimpleNamespace(monotonic=monotonic))
    thread = InlineEngine(Laggard())
    for step in (0.05, 0.5, 0.05, 0.5):
        clock["step"] = step
        for _ in range(STEPS):
            await thread.turn([], [])
    thread.close()
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().startswith("steps take 6 times as long as they did")

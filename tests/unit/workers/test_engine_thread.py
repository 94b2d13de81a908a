from headrace.testing.builders import make_request
from workers.backends.scripted import ScriptedEngine
from workers.engine_thread import EngineThread
from workers.ports import EngineRequest


async def test_what_is_claimed_and_cancelled_in_one_turn_does_not_run() -> None:
    thread, request = EngineThread(ScriptedEngine()), make_request()
    run = EngineRequest(request_id="job@1", prompt_ids=request.prompt_ids, sampling=request.sampling)
    outcome = await thread.turn([run], ["job@1"])
    thread.close()
    assert outcome.deltas == []
    assert outcome.stats.running == 0

"""What /ready says of the parts behind this process.

Only what makes a request sent now fail takes an API out of its load balancer: a store, or a log in front of it, that takes no work, a model
whose tokenizer is not there, its own end. Without workers or without a scheduler what is accepted waits and is lost by nobody, and every
replica would say so at the same moment: a 503 would turn a queue that is there to wait into an outage. So these two are told, and decide
nothing.
"""

from collections.abc import Sequence
from typing import Any

from headrace.worker_status import WorkerStatus

LATE_S = 10.0
"""A scheduler that is started again has made a round long before."""
_ROUNDS = 5
"""… or this many intervals, where somebody set them long."""


def store_part(refusal: str | None) -> dict[str, Any]:
    """`refusal`: why it takes no work."""
    return {"status": "ok"} if refusal is None else {"status": "failed", "why": refusal}


def log_part(down: str | None) -> dict[str, Any]:
    """`down`: why it takes no requests."""
    return {"status": "ok"} if down is None else {"status": "failed", "why": down}


def scheduler_part(swept_s_ago: float | None, *, interval_s: float) -> dict[str, Any]:
    """`swept_s_ago`: None if it is not known, as while older schedulers run, which leave no time, or where the store did not answer."""
    if swept_s_ago is None:
        return {"status": "unknown", "swept_s_ago": None}
    if swept_s_ago <= max(LATE_S, _ROUNDS * interval_s):
        return {"status": "ok", "swept_s_ago": swept_s_ago}
    why = f"no scheduler has ended a round for {swept_s_ago:.0f} s: lost leases, deadlines, retention and batches wait"
    return {"status": "late", "swept_s_ago": swept_s_ago, "why": why}


def workers_part(models: Sequence[str], found: Sequence[WorkerStatus] | None) -> dict[str, Any]:
    """`models` that this API takes requests for; `found` None: the store did not answer."""
    if found is None:
        return {"status": "unknown", "live": None, "standbys": None, "models": {}}
    live = [worker.model for worker in found if not worker.standby]
    part: dict[str, Any] = {
        "status": "ok",
        "live": len(live),
        "standbys": len(found) - len(live),
        "models": {model: live.count(model) for model in sorted({*models, *live})},
    }
    if idle := [model for model in models if model not in live]:
        part |= {"status": "missing", "why": f"no worker runs {', '.join(idle)}: requests are accepted and wait"}
    return part

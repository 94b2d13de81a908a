"""A short run with every fault in it. `make chaos` is the long one."""

from pathlib import Path

import pytest

from tests.chaos.orders import Kind
from tests.chaos.plan import Fault
from tests.chaos.run import Settings, run
from tests.chaos.versions import ROOT

SEED = 7
REQUESTS = 300


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="older code to roll into comes from the repository; these files are not in one")
async def test_nothing_is_lost_doubled_or_out_of_order(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, requests=REQUESTS, at_once=32, older=None, patience_s=90.0)
    result = await run(settings, tmp_path, say=lambda _: None)
    assert result.violations == []
    assert {struck.strike.fault for struck in result.struck} == set(Fault)
    lines = [line for record in result.history.batches for line in record.order.lines]
    assert len(result.history.records) + len(lines) == REQUESTS
    assert {record.end.status for record in result.history.batches if record.end} == {"completed", "cancelled", "failed"}
    assert any(line.poisonous for line in lines)
    assert {record.order.kind for record in result.history.records} == set(Kind)
    assert any(record.order.more for record in result.history.records)
    assert 404 in {status for record in result.history.records for status in record.strangers}
    ends = {(job.state, job.reason) for job in result.history.store.jobs.values()}
    assert ends >= {("done", "length"), ("cancelled", "cancelled"), ("cancelled", "unattended")}

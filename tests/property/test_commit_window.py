"""However the work on a log's records interleaves: no commit covers an unfinished record, and all that is done is committed in the end."""

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.kafka.window import Arrival, Partition, Water, Window, Windows

WATER = Water(high=6, low=2, high_bytes=100, low_bytes=40)
PARTITIONS = [Partition("requests", 0), Partition("requests", 1), Partition("accepted", 0)]


class LogModel(RuleBasedStateMachine):
    """A log with gaps, a reader that is given and loses partitions, and work that ends in any order, even after its partition was lost."""

    @initialize(gaps=st.lists(st.integers(1, 3), min_size=12, max_size=40))
    def write(self, gaps: list[int]) -> None:
        self.windows = Windows(WATER)
        offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
        self.log = {partition: offsets for partition in PARTITIONS}
        self.commits = dict.fromkeys(PARTITIONS, 0)
        self.finished: dict[Partition, set[int]] = {partition: set() for partition in PARTITIONS}
        self.position: dict[Partition, int] = {}
        self.working: list[tuple[Partition, int]] = []

    @rule(partition=st.sampled_from(PARTITIONS))
    def assign(self, partition: Partition) -> None:
        if partition not in self.position:
            self.position[partition] = self.commits[partition]
        self.windows.assign([partition])

    @rule(partition=st.sampled_from(PARTITIONS), count=st.integers(1, 4), size=st.integers(0, 30), back=st.integers(0, 2))
    def fetch(self, partition: Partition, count: int, size: int, back: int) -> None:
        """`back`: a fetch that repeats what came before."""
        assigned = partition in self.position
        if partition in self.windows.paused:
            return
        start = self.position.get(partition, 0)
        ahead = [offset for offset in self.log[partition] if offset >= start][:count]
        again = [offset for offset in self.log[partition] if self.commits[partition] <= offset < start][-back:] if back else []
        new = self.windows.deliver(partition, [Arrival(offset, size) for offset in [*again, *ahead]])
        if not assigned:
            assert new == []
            return
        assert new == ahead
        if ahead:
            self.position[partition] = ahead[-1] + 1
        self.working += [(partition, offset) for offset in new]

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        partition, offset = self.working.pop(data.draw(st.integers(0, len(self.working) - 1)))
        self.finished[partition].add(offset)
        self.windows.done(partition, offset)

    @rule()
    def commit(self) -> None:
        due = self.windows.due
        self._store(due)
        self.windows.committed(due)
        assert self.windows.due == {}

    @rule()
    def commit_and_lose_the_answer(self) -> None:
        self._store(self.windows.due)

    @rule(partition=st.sampled_from(PARTITIONS))
    def revoke(self, partition: Partition) -> None:
        self._store(self.windows.revoke([partition]))
        self.position.pop(partition, None)
        assert partition not in self.windows.partitions

    @rule(partition=st.sampled_from(PARTITIONS))
    def lose(self, partition: Partition) -> None:
        """Without a chance to commit."""
        self.windows.revoke([partition])
        self.position.pop(partition, None)

    def _store(self, due: dict[Partition, int]) -> None:
        for partition, offset in due.items():
            assert offset > self.commits[partition] or offset == self.commits[partition], "a commit went back"
            self.commits[partition] = offset

    @invariant()
    def covers_nothing_unfinished(self) -> None:
        for partition, committed in getattr(self, "commits", {}).items():
            assert set(offset for offset in self.log[partition] if offset < committed) <= self.finished[partition]

    @invariant()
    def holds_little(self) -> None:
        if hasattr(self, "windows"):
            assert self.windows.in_flight <= len(PARTITIONS) * (WATER.high + 4)

    def teardown(self) -> None:
        if not hasattr(self, "windows"):
            return
        for partition in PARTITIONS:
            self.assign(partition)
        while any(self.position[partition] <= self.log[partition][-1] for partition in PARTITIONS) or self.working:
            for partition in PARTITIONS:
                self.fetch(partition, 4, 1, 0)
            assert self.working, "everything is paused and nothing is in flight"
            for partition, offset in self.working:
                self.finished[partition].add(offset)
                self.windows.done(partition, offset)
            self.working = []
        self._store(self.windows.due)
        assert self.commits == {partition: self.log[partition][-1] + 1 for partition in PARTITIONS}
        assert not self.windows.paused
        assert self.windows.in_flight == 0


LogModel.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestWindows = LogModel.TestCase


@given(st.permutations(range(12)))
def test_a_commit_is_the_contiguous_prefix(order: list[int]) -> None:
    window = Window()
    window.deliver([Arrival(offset, 1) for offset in range(12)])
    done: set[int] = set()
    for offset in order:
        window.done(offset)
        done.add(offset)
        prefix = next((i for i in range(12) if i not in done), 12)
        assert (window.due or 0) == prefix


def test_pauses_above_high_water_and_goes_on_below_low() -> None:
    windows, partition = Windows(WATER), PARTITIONS[0]
    windows.assign(PARTITIONS)
    windows.deliver(partition, [Arrival(offset, 1) for offset in range(6)])
    assert windows.paused == {partition}
    for offset in range(3):
        windows.done(partition, offset)
        assert windows.paused == {partition}
    windows.done(partition, 3)
    assert not windows.paused


def test_heavy_records_pause_all() -> None:
    windows = Windows(WATER)
    windows.assign(PARTITIONS)
    windows.deliver(PARTITIONS[0], [Arrival(0, 60), Arrival(1, 60)])
    assert windows.paused == set(PARTITIONS)
    windows.done(PARTITIONS[0], 1)
    assert windows.paused == set(PARTITIONS)
    windows.revoke([PARTITIONS[0]])
    assert not windows.paused

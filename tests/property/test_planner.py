"""Any arrivals, any ends: the planner's books agree after every step, nobody is stuck, every block comes back, and what a sequence finds in
the cache is what it would have computed itself.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.request import Sampling
from workers.engine.planner import Plan, Planner, Row
from workers.engine.sequence import Sequence, SequenceState


class PlannerMachine(RuleBasedStateMachine):
    @initialize(
        blocks=st.integers(2, 20),
        block_size=st.sampled_from([1, 4, 16]),
        max_running=st.integers(1, 6),
        budget=st.integers(1, 40),
        prefix_cache=st.booleans(),
    )
    def build(self, blocks: int, block_size: int, max_running: int, budget: int, prefix_cache: bool) -> None:
        self.blocks, self.block_size, self.max_running, self.budget = blocks, block_size, max_running, budget
        self.prefix_cache = prefix_cache
        self.planner = Planner(
            blocks=blocks, block_size=block_size, max_running=max_running, token_budget=budget, prefix_cache=prefix_cache
        )
        self.arrivals = 0
        # What a runner would know: for each sequence the tokens whose keys and values it has stored, and its block table. And what lies in
        # each block: a key is a function of all tokens up to its own, and may be shared under one salt only.
        self.stored: dict[str, int] = {}
        self.tables: dict[str, list[int]] = {}
        self.contents: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}

    @rule(
        common=st.integers(0, 40),
        own=st.integers(1, 20),
        max_tokens=st.integers(1, 30),
        priority=st.integers(0, 2),
        salt=st.sampled_from("ab"),
        scored=st.booleans(),
    )
    def arrive(self, common: int, own: int, max_tokens: int, priority: int, salt: str, scored: bool) -> None:
        self.arrivals += 1
        sequence = Sequence(
            id=str(self.arrivals),
            tokens=[0] * common + [own] * own,
            prompt_length=common + own,
            salt=salt,
            prompt_logprobs=[] if scored else None,
            sampling=Sampling(max_tokens=max_tokens, seed=0),
            priority=priority,
            arrival=self.arrivals,
        )
        if self.planner.fits(sequence.max_length):
            self.planner.add(sequence)

    @precondition(lambda self: any(True for _ in self.planner))
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.planner.remove(data.draw(st.sampled_from([sequence.id for sequence in self.planner])))

    @precondition(lambda self: any(True for _ in self.planner))
    @rule(data=st.data())
    def turn_out_nonsense(self, data: st.DataObject) -> None:
        """What it holds must not be found by anybody who comes later; those who share it go on."""
        failed = data.draw(st.sampled_from(list(self.planner)))
        blocks = failed.blocks[: len(failed.entered)]
        self.planner.spoil(failed.id)
        self.planner.remove(failed.id)
        self.planner.check()
        kept = {block for block in blocks if self.planner._pool.users(block) == 0 and block in self.planner._pool._kept}
        assert not kept, "nonsense is kept"

    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.run_one()

    @rule()
    def step_that_fails(self) -> None:
        """A plan that could not be computed is not accounted; what it gave the runner stays given."""
        self.act(self.planner.plan())

    @precondition(lambda self: any(True for _ in self.planner))
    @rule()
    def step_that_lacks_memory(self) -> None:
        """The next one is half as large, until one token of one sequence is left to blame."""
        plan = self.planner.plan()
        self.act(plan)
        if not self.planner.shrink(plan):
            [row] = plan.rows
            self.planner.remove(row.sequence_id)
            return
        smaller = self.planner.plan()
        self.act(smaller)
        assert 1 <= smaller.token_count <= max(1, plan.token_count // 2)

    def run_one(self) -> None:
        plan = self.planner.plan()
        assert plan.rows or not any(True for _ in self.planner), "work waits, and nothing is planned"
        self.act(plan)
        self.planner.account(plan)
        for row in plan.rows:
            self.stored[row.sequence_id] = row.start + len(row.token_ids)
            if row.sampling is None:
                continue
            sequence = self.planner[row.sequence_id]
            sequence.append(row.position)
            sequence.take_scores()
            if sequence.generated == row.sampling.max_tokens:
                self.planner.remove(sequence.id)

    def act(self, plan: Plan) -> None:
        """What the runner sees must make sense without any look at the planner."""
        assert plan.token_count <= self.budget
        assert len({row.sequence_id for row in plan.rows}) == len({row.slot for row in plan.rows}) == len(plan.rows) <= self.max_running
        for row in plan.rows:
            self.load(row)
        written = [block for row in plan.rows for block in self.written_by(row)]
        assert len(written) == len(set(written)), "two sequences write one block"
        for row in plan.rows:
            self.write(row)

    def load(self, row: Row) -> None:
        """Its blocks come into the table; what it does not compute must be there."""
        assert row.token_ids, "an empty row"
        sequence, size = self.planner[row.sequence_id], self.block_size
        if row.first_block == 0 and row.new_blocks:
            self.tables[row.sequence_id], self.stored[row.sequence_id] = [], row.filled * size
            assert not row.filled or (self.prefix_cache and not sequence.scores_prompt)
        assert row.start == self.stored[row.sequence_id], "a row does not continue what was stored"
        table = self.tables[row.sequence_id]
        assert row.first_block == len(table)
        table += row.new_blocks
        assert row.start + len(row.token_ids) <= len(table) * size, "no block for a token"
        for place in range(row.start):
            assert self.contents[table[place // size], place % size] == (sequence.salt, tuple(sequence.tokens[: place + 1]))

    def written_by(self, row: Row) -> list[int]:
        last = row.start + len(row.token_ids) - 1
        return self.tables[row.sequence_id][row.start // self.block_size : last // self.block_size + 1]

    def write(self, row: Row) -> None:
        sequence, table, size = self.planner[row.sequence_id], self.tables[row.sequence_id], self.block_size
        for place in range(row.start, row.start + len(row.token_ids)):
            self.contents[table[place // size], place % size] = (sequence.salt, tuple(sequence.tokens[: place + 1]))

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "planner"):
            self.planner.check()

    @invariant()
    def no_sequence_waits_behind_a_later_one_of_its_priority(self) -> None:
        if hasattr(self, "planner"):
            for waiting in (s for s in self.planner if s.state is SequenceState.WAITING):
                rivals = [s for s in self.planner if s.state is SequenceState.RUNNING and s.priority == waiting.priority]
                assert all(rival.arrival < waiting.arrival for rival in rivals)

    def teardown(self) -> None:
        """Without further arrivals all finish, within a bound: a preemption loses work, but never that of the most urgent."""
        if not hasattr(self, "planner"):
            return
        bound = 10 + sum(2 * sequence.max_length for sequence in self.planner) * (1 + sum(1 for _ in self.planner))
        while any(True for _ in self.planner):
            bound -= 1
            assert bound > 0, "the rest does not finish"
            self.run_one()
            self.planner.check()
        assert self.planner.used_tokens == 0


TestPlanner = PlannerMachine.TestCase
TestPlanner.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

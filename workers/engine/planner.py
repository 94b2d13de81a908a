"""The planner decides what one engine step computes. Torch-free; it moves numbers, never tensors.

There is no prefill and no decode phase. Each sequence has one number, `computed`, and every step lets it catch up with the known tokens:
a new prompt lags by its length, a decoding sequence by the one token sampled last, a preempted one by all it ever had. A row that catches
up in a step is sampled at its end; a longer one is computed in chunks of what is left of the step's token budget. A sequence that begins
like an earlier one starts behind what that one left in the cache.

Why no request is ever stuck: sequences are served in order of urgency (priority, then arrival), only the least urgent is ever preempted,
and nothing overtakes a waiting sequence that does not fit yet. So the most urgent one advances, and it fits alone: `fits` was asked first.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.request import Sampling
from workers.engine.block_pool import BlockPool
from workers.engine.logit_rules import LogitRules
from workers.engine.prefix_cache import Node, PrefixCache
from workers.engine.sequence import Sequence, SequenceState

CALM_STEPS = 32
"""Steps without a lack of memory after which a budget that was cut is doubled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence's part of a step: compute its tokens [start, start + len(token_ids))."""

    sequence_id: str
    slot: int
    start: int
    token_ids: tuple[int, ...]
    first_block: int
    """Place of `new_blocks` in the sequence's block table."""
    new_blocks: tuple[int, ...]
    """Blocks it was given in this plan."""
    filled: int
    """How many of them hold their tokens already."""
    sampling: Sampling | None
    """Set if the row catches up: sample the token behind its last."""
    position: int
    """How many tokens it has generated: the place of the next among them."""
    choice: int = 0
    rules: LogitRules | None = None
    """As the tokens so far have made them; they change once the plan has been computed."""
    targets: tuple[int, ...] = ()
    """If the prompt is scored: the prompt's tokens behind each of `token_ids`, of which the last may have none."""
    alternatives: int = 0
    """How many to tell beside each target."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step computes. The token count is within the budget; no sequence has two rows."""

    rows: tuple[Row, ...]
    preempted: tuple[str, ...]
    """Sequences that lost their blocks in this plan and will be recomputed."""

    @property
    def token_count(self) -> int:
        return sum(len(row.token_ids) for row in self.rows)


class Planner:
    """Owns the sequences and the blocks they hold."""

    def __init__(self, *, blocks: int, block_size: int, max_running: int, token_budget: int, prefix_cache: bool = True) -> None:
        self._prefixes = PrefixCache(block_size) if prefix_cache else None
        self._pool = BlockPool(blocks, self._prefixes.forget if self._prefixes else None)
        self._block_size = block_size
        self._token_budget = self._full_budget = token_budget
        self._calm_steps = self._refusals = 0
        self._free_slots = list(range(max_running - 1, -1, -1))
        self._sequences: dict[str, Sequence] = {}
        # Both in order of urgency. Lists of at most hundreds: sorting an almost sorted list is cheaper than a tree.
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def room(self, priority: int) -> tuple[int, int]:
        """Slots, and prompt tokens, for new sequences of `priority`: what is free, and what running ones of a lesser priority would yield;
        without what waiting ones come first for, and a block for each running one to grow into.
        """
        yielding = [sequence for sequence in self._running if sequence.priority > priority]
        before = [sequence for sequence in self._waiting if sequence.priority <= priority]
        slots = len(self._free_slots) + len(yielding) - len(before)
        blocks = self._pool.free + len(self._pool.freed_by(sequence.blocks for sequence in yielding))
        blocks -= sum(self._blocks_for(len(sequence.tokens)) for sequence in before) + len(self._running) - len(yielding)
        return max(0, slots), max(0, blocks) * self._block_size

    @property
    def used_tokens(self) -> int:
        return self._pool.used * self._block_size

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences.values())

    def __getitem__(self, sequence_id: str) -> Sequence:
        return self._sequences[sequence_id]

    def fits(self, length: int) -> bool:
        """Whether a sequence of `length` tokens fits the pool when it is alone. One that does always finishes."""
        return self._blocks_for(length) <= self._pool.size

    def add(self, sequence: Sequence) -> None:
        """The caller has asked `fits(sequence.max_length)`."""
        self._sequences[sequence.id] = sequence
        self._wait(sequence)

    def remove(self, sequence_id: str) -> None:
        """Forget a sequence, finished or not, and free what it holds."""
        sequence = self._sequences.pop(sequence_id)
        if sequence.state is SequenceState.RUNNING:
            self._running.remove(sequence)
            self._give_back(sequence)
        else:
            self._waiting.remove(sequence)

    def spoil(self, sequence_id: str) -> None:
        """What was computed for a sequence is nonsense: nobody finds it again, its shared beginning included, which may be where the
        nonsense came from.
        """
        sequence = self._sequences[sequence_id]
        if self._prefixes is None:
            return
        parent: int | str = sequence.salt
        for index, number in enumerate(sequence.entered):
            block = self._prefixes.remove(parent, sequence.tokens[index * self._block_size : (index + 1) * self._block_size])
            if block is not None:
                self._pool.spoil(block)
            parent = number

    def plan(self) -> Plan:
        """Decide the next step. Blocks for it are taken; `account` it once it has run.

        Priority by priority, so that an urgent newcomer is served before a lesser prompt has used up the budget; within one, first who
        runs, then who waits. Whoever is admitted in a step that preempted would take the blocks which the preempted one waits for.
        """
        step = _Step(self._token_budget)
        admitting = True
        for priority in sorted({sequence.priority for sequence in self._sequences.values()}):
            self._serve_running(priority, step)
            admitting = admitting and not step.preempted and self._admit_waiting(priority, step)
        return Plan(tuple(step.rows.values()), tuple(step.preempted))

    def account(self, plan: Plan) -> None:
        """The plan has been computed."""
        for row in plan.rows:
            sequence = self._sequences[row.sequence_id]
            sequence.computed += len(row.token_ids)
            self._enter(sequence)
        self._refusals = 0
        self._calm_steps += 1
        if self._calm_steps >= CALM_STEPS:
            self._token_budget = min(2 * self._token_budget, self._full_budget)
            self._calm_steps = 0

    def shrink(self, plan: Plan) -> bool:
        """The plan did not fit the device's memory: the next ones compute half as much, until things have been calm for a while.

        Nothing is preempted for it: what a sequence holds lies in the cache, which does not grow. False for a plan of one token, the least
        there is, that was refused at the second try; the budget is whole again then, as the caller removes the sequence.
        """
        self._calm_steps = 0
        self._refusals += 1
        hopeless = plan.token_count == 1 and self._refusals > 1
        self._token_budget = self._full_budget if hopeless else max(1, plan.token_count // 2)
        return not hopeless

    def check(self) -> None:
        """Raises AssertionError unless every block and slot has exactly one owner and every sequence keeps its invariant."""
        self._pool.check()
        held = Counter(block for sequence in self._running for block in sequence.blocks)
        assert len(held) == self._pool.used, "blocks held and blocks used differ"
        assert all(self._pool.users(block) == count for block, count in held.items()), "users and holders of a block differ"
        if self._prefixes is not None:
            self._prefixes.check()
        slots = [sequence.slot for sequence in self._running]
        assert sorted([*self._free_slots, *(slot for slot in slots if slot is not None)]) == list(range(len(slots) + len(self._free_slots)))
        for sequence in self._running:
            assert 0 <= sequence.computed <= len(sequence.tokens)
            assert sequence.computed <= self._block_size * len(sequence.blocks)
            assert len(set(sequence.blocks)) == len(sequence.blocks), "a sequence holds a block twice"
            assert all(self._pool.users(block) == 1 for block in sequence.blocks[sequence.computed // self._block_size :]), "written by two"
        for sequence in self._waiting:
            assert not sequence.blocks, "a waiting sequence holds blocks"
            assert sequence.slot is None, "a waiting sequence holds a slot"
            assert sequence.computed == 0, "a waiting sequence has computed tokens"
        assert len(self._running) + len(self._waiting) == len(self._sequences)

    def _serve_running(self, priority: int, step: "_Step") -> None:
        """Most urgent first. One that needs a block where none is free takes it from the least urgent, at last from itself.

        So whoever is preempted here has no row yet.
        """
        for sequence in [sequence for sequence in self._running if sequence.priority == priority]:
            if sequence.state is not SequenceState.RUNNING or step.budget == 0:
                return
            count = self._share(sequence, step)
            grow = max(0, self._blocks_for(sequence.computed + count) - len(sequence.blocks))
            while grow > self._pool.free and sequence.state is SequenceState.RUNNING:
                self._preempt(self._running[-1], step)
            if sequence.state is SequenceState.RUNNING:
                step.add(sequence, count, self._pool.allocate(grow))

    def _admit_waiting(self, priority: int, step: "_Step") -> bool:
        """In order of arrival, and nobody overtakes: a large prompt would else wait for ever behind small ones. True if all came in."""
        for sequence in [sequence for sequence in self._waiting if sequence.priority == priority]:
            if self._will_be_found(sequence):
                return False
            found = self._find(sequence)
            # Blocks for all known tokens at once: a prompt that was begun can then be finished without preempting anybody.
            need = self._blocks_for(len(sequence.tokens)) - len(found)
            if step.budget == 0 or not self._make_room(sequence, need, found, step):
                return False
            self._waiting.remove(sequence)
            sequence.state = SequenceState.RUNNING
            sequence.slot = self._free_slots.pop()
            sequence.entered = [node.number for node in found]
            sequence.computed = len(found) * self._block_size
            if sequence.cached is None:  # what it finds after a preemption may be its own
                sequence.cached = sequence.computed
            self._running.append(sequence)
            self._running.sort(key=_urgency)
            filled = [node.block for node in found]
            self._pool.share(filled)
            step.add(sequence, self._share(sequence, step), filled + self._pool.allocate(need), len(filled))
        return True

    def _find(self, sequence: Sequence) -> list[Node]:
        """What of its beginning lies in the cache."""
        if self._prefixes is None or sequence.scores_prompt:
            return []
        return self._prefixes.find(sequence.salt, sequence.tokens)

    def _will_be_found(self, sequence: Sequence) -> bool:
        """A more urgent one, as another choice of the same request is, computes its prompt just now: it comes in when that is in the cache.

        Nobody overtakes it meanwhile, as elsewhere: what the budget has left waits a step, where each choice would have computed all.
        """
        shared = (sequence.prompt_length - 1) // self._block_size * self._block_size
        if self._prefixes is None or sequence.scores_prompt:
            return False
        return any(
            other.computed < shared
            and other.salt == sequence.salt
            and other.urgency < sequence.urgency
            and other.tokens[: other.prompt_length] == sequence.tokens[: sequence.prompt_length]
            for other in self._running
        )

    def _enter(self, sequence: Sequence) -> None:
        """Its blocks that are full now can be found by others."""
        if self._prefixes is None:
            return
        size = self._block_size
        for index in range(len(sequence.entered), sequence.computed // size):
            parent = sequence.entered[-1] if sequence.entered else sequence.salt
            node = self._prefixes.enter(parent, sequence.tokens[index * size : (index + 1) * size], sequence.blocks[index])
            if node.block == sequence.blocks[index]:
                self._pool.keep(node.block)
            sequence.entered.append(node.number)

    def _share(self, sequence: Sequence, step: "_Step") -> int:
        """Tokens for a running sequence: what it lags, but one is left for each that is still to come, so that a long prompt does not hold
        up those that decode.
        """
        unserved = len(self._running) - len(step.rows) - 1
        return min(sequence.lag, max(1, step.budget - unserved))

    def _make_room(self, sequence: Sequence, need: int, found: list[Node], step: "_Step") -> bool:
        """A slot and `need` blocks beside those found, taken from sequences of a lesser priority if that is enough, never from equals."""
        lesser = [other for other in self._running if other.priority > sequence.priority]
        freed = self._pool.freed_by(other.blocks for other in lesser)
        # Found blocks that nobody else uses are free ones too, and not to be counted twice.
        unused = sum(self._pool.users(node.block) == 0 or node.block in freed for node in found)
        if not (self._free_slots or lesser) or need + unused > self._pool.free + len(freed):
            return False
        while not self._free_slots or need + sum(self._pool.users(node.block) == 0 for node in found) > self._pool.free:
            self._preempt(self._running[-1], step)
        return True

    def _preempt(self, sequence: Sequence, step: "_Step") -> None:
        """Take all from a running sequence. Recomputing it later costs less than moving its cache away and back."""
        step.preempted.append(sequence.id)
        self._running.remove(sequence)
        self._give_back(sequence)
        self._wait(sequence)

    def _wait(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)
        self._waiting.sort(key=_urgency)

    def _give_back(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._pool.release(sequence.blocks)
        self._free_slots.append(sequence.slot)
        sequence.state, sequence.slot = SequenceState.WAITING, None
        sequence.blocks, sequence.entered, sequence.computed = [], [], 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)


class _Step:
    """The books of one planning pass."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.rows: dict[str, Row] = {}
        self.preempted: list[str] = []

    def add(self, sequence: Sequence, count: int, new_blocks: list[int], filled: int = 0) -> None:
        assert sequence.slot is not None
        self.budget -= count
        self.rows[sequence.id] = Row(
            sequence_id=sequence.id,
            slot=sequence.slot,
            start=sequence.computed,
            token_ids=tuple(sequence.tokens[sequence.computed : sequence.computed + count]),
            first_block=len(sequence.blocks),
            new_blocks=tuple(new_blocks),
            filled=filled,
            sampling=sequence.sampling if count == sequence.lag else None,
            position=sequence.generated,
            choice=sequence.choice,
            rules=sequence.rules,
            targets=tuple(sequence.tokens[sequence.computed + 1 : sequence.computed + count + 1]) if sequence.scores_prompt else (),
            alternatives=sequence.sampling.logprobs or 0,
        )
        sequence.blocks += new_blocks


def _urgency(sequence: Sequence) -> tuple[int, int]:
    return sequence.urgency

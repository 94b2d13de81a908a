"""What the planner decides, as values."""

from headrace.request import Sampling
from workers.engine.planner import CALM_STEPS, Plan, Planner
from workers.engine.sequence import Sequence

BLOCK = 4


def make_planner(*, blocks: int = 100, max_running: int = 8, token_budget: int = 32, prefix_cache: bool = False) -> Planner:
    return Planner(blocks=blocks, block_size=BLOCK, max_running=max_running, token_budget=token_budget, prefix_cache=prefix_cache)


def add(planner: Planner, name: str, length: int, *, priority: int = 0, arrival: int | None = None, max_tokens: int = 100) -> None:
    planner.add(
        Sequence(
            id=name,
            tokens=list(range(length)),
            prompt_length=length,
            sampling=Sampling(max_tokens=max_tokens, seed=0),
            priority=priority,
            arrival=arrival if arrival is not None else sum(1 for _ in planner),
        )
    )


def advance(planner: Planner) -> Plan:
    """Plan, and act as if each sampling row had sampled token 7."""
    plan = planner.plan()
    planner.account(plan)
    for row in plan.rows:
        if row.sampling is not None:
            planner[row.sequence_id].tokens.append(7)
    planner.check()
    return plan


def shape(plan: Plan) -> dict[str, tuple[int, int, bool]]:
    """Of each row: where it starts, how many tokens, whether it samples."""
    return {row.sequence_id: (row.start, len(row.token_ids), row.sampling is not None) for row in plan.rows}


def test_a_prompt_is_computed_then_each_step_one_token() -> None:
    planner = make_planner()
    add(planner, "a", 5)
    first = advance(planner)
    assert shape(first) == {"a": (0, 5, True)}
    assert first.rows[0].token_ids == (0, 1, 2, 3, 4)
    assert (first.rows[0].first_block, len(first.rows[0].new_blocks), first.rows[0].position) == (0, 2, 0)
    second = advance(planner)
    assert shape(second) == {"a": (5, 1, True)}
    assert (second.rows[0].token_ids, second.rows[0].new_blocks, second.rows[0].position) == ((7,), (), 1)
    advance(planner)
    advance(planner)
    fifth = advance(planner)  # token 8 is the first of a third block
    assert (fifth.rows[0].start, fifth.rows[0].first_block, len(fifth.rows[0].new_blocks)) == (8, 2, 1)


def test_a_long_prompt_comes_in_chunks_beside_decoding_rows() -> None:
    planner = make_planner(token_budget=10)
    add(planner, "short", 3)
    add(planner, "long", 20)
    assert shape(advance(planner)) == {"short": (0, 3, True), "long": (0, 7, False)}
    assert shape(advance(planner)) == {"short": (3, 1, True), "long": (7, 9, False)}
    assert shape(advance(planner)) == {"short": (4, 1, True), "long": (16, 4, True)}
    assert shape(advance(planner)) == {"short": (5, 1, True), "long": (20, 1, True)}


def test_an_urgent_long_prompt_leaves_a_token_to_those_behind_it() -> None:
    planner = make_planner(token_budget=10)
    add(planner, "decoding", 3, priority=1)
    advance(planner)
    add(planner, "urgent", 30, priority=0)
    advance(planner)
    assert shape(advance(planner)) == {"urgent": (9, 9, False), "decoding": (4, 1, True)}


def test_waiting_sequences_are_admitted_by_priority_then_arrival() -> None:
    planner = make_planner(max_running=3)
    add(planner, "late", 2, priority=1, arrival=2)
    add(planner, "early", 2, priority=1, arrival=1)
    add(planner, "urgent", 2, priority=0, arrival=3)
    add(planner, "lazy", 2, priority=2, arrival=0)
    assert list(shape(advance(planner))) == ["urgent", "early", "late"]


def test_nobody_overtakes_a_prompt_that_does_not_fit_yet() -> None:
    planner = make_planner(blocks=5)
    add(planner, "a", 12)
    advance(planner)
    add(planner, "large", 12)
    add(planner, "small", 1)
    assert list(shape(advance(planner))) == ["a"]
    planner.remove("a")
    assert list(shape(advance(planner))) == ["large", "small"]


def test_when_blocks_run_out_the_youngest_is_preempted_and_nobody_admitted() -> None:
    planner = make_planner(blocks=4)
    add(planner, "old", 4)
    add(planner, "young", 8)
    advance(planner)  # old: 1 block, young: 2
    add(planner, "new", 1)
    plan = advance(planner)  # both need another: old takes the last free one, young has only itself to take it from
    assert plan.preempted == ("young",)
    assert shape(plan) == {"old": (4, 1, True)}
    # Next it comes back, before the newcomer, with all its known tokens to compute.
    assert planner["young"].computed == 0
    assert list(shape(advance(planner))) == ["old"]  # 9 tokens need 3 blocks, 2 are free
    planner.remove("old")
    assert shape(advance(planner)) == {"young": (0, 9, True), "new": (0, 1, True)}


def test_a_more_urgent_prompt_takes_the_place_of_a_lesser_one_at_once() -> None:
    planner = make_planner(max_running=2)
    add(planner, "batch1", 4, priority=2)
    add(planner, "batch2", 4, priority=2)
    advance(planner)
    add(planner, "urgent", 4, priority=0)
    plan = advance(planner)
    assert plan.preempted == ("batch2",)
    assert shape(plan) == {"batch1": (4, 1, True), "urgent": (0, 4, True)}


def test_equals_do_not_displace_each_other_and_nobody_is_displaced_in_vain() -> None:
    planner = make_planner(blocks=8, max_running=2)
    add(planner, "urgent", 16, priority=0)
    add(planner, "lesser", 4, priority=2)
    advance(planner)
    add(planner, "equal", 4, priority=2)
    add(planner, "too large", 20, priority=1)
    plan = advance(planner)
    assert plan.preempted == ()
    assert set(shape(plan)) == {"urgent", "lesser"}


def test_an_urgent_prompt_does_not_wait_behind_the_chunks_of_a_lesser_one() -> None:
    planner = make_planner(token_budget=8)
    add(planner, "lesser", 30, priority=2)
    advance(planner)
    add(planner, "urgent", 7, priority=0)
    assert shape(advance(planner)) == {"urgent": (0, 7, True), "lesser": (8, 1, False)}


def test_removing_frees_everything_in_any_state() -> None:
    planner = make_planner(max_running=1)
    add(planner, "running", 10)
    add(planner, "waiting", 10)
    advance(planner)
    planner.remove("running")
    planner.remove("waiting")
    planner.check()
    assert (planner.running, planner.waiting, planner.used_tokens) == (0, 0, 0)
    assert planner.plan() == Plan((), ())


def test_fits_asks_for_the_whole_pool() -> None:
    planner = make_planner(blocks=3)
    assert planner.fits(12)
    assert not planner.fits(13)


def test_room_counts_what_lesser_priorities_would_yield() -> None:
    planner = make_planner(blocks=4, max_running=2)
    add(planner, "batch", 7, priority=2)
    add(planner, "standard", 3, priority=1)
    planner.plan()
    assert planner.room(2) == (0, 0)
    assert planner.room(1) == (1, 8)
    assert planner.room(0) == (2, 16)


def test_a_budget_that_was_cut_comes_back_step_by_step() -> None:
    planner = make_planner(blocks=1_000, token_budget=32)
    add(planner, "a", 3_000)
    assert planner.shrink(planner.plan())
    assert planner.shrink(planner.plan())
    counts = [advance(planner).token_count for _ in range(3 * CALM_STEPS)]
    assert counts == [8] * CALM_STEPS + [16] * CALM_STEPS + [32] * CALM_STEPS


def test_a_single_token_cannot_be_cut_and_the_budget_is_whole_for_the_others() -> None:
    planner = make_planner(token_budget=32)
    add(planner, "a", 300)
    add(planner, "b", 300)
    shrunk = 0
    while planner.shrink(plan := planner.plan()):
        shrunk += 1
    assert shrunk == 5
    [row] = plan.rows
    assert (row.sequence_id, row.token_ids) == ("a", (0,))
    planner.remove("a")
    assert advance(planner).token_count == 32


def test_a_single_token_is_tried_twice() -> None:
    planner = make_planner()
    add(planner, "a", 1)
    for _ in range(3):
        assert planner.shrink(planner.plan())
        advance(planner)
    assert planner.shrink(planner.plan())
    assert not planner.shrink(planner.plan())


def test_a_sequence_starts_behind_what_an_earlier_one_left() -> None:
    planner = make_planner(prefix_cache=True)
    add(planner, "a", 10)
    first = advance(planner)
    planner.remove("a")
    add(planner, "b", 12)
    [row] = advance(planner).rows
    assert (row.start, row.filled, row.token_ids) == (8, 2, (8, 9, 10, 11))
    assert row.new_blocks[:2] == first.rows[0].new_blocks[:2]


def test_two_sequences_share_blocks_while_both_run() -> None:
    planner = make_planner(prefix_cache=True)
    add(planner, "a", 9)
    advance(planner)
    add(planner, "b", 9)
    advance(planner)
    assert planner.used_tokens == 4 * BLOCK  # two in common, one each
    planner.remove("a")
    planner.check()


def test_the_last_token_is_computed_whatever_is_known() -> None:
    planner = make_planner(prefix_cache=True)
    for name in "ab":
        add(planner, name, 2 * BLOCK)
        [row] = advance(planner).rows
        planner.remove(name)
    assert (row.start, row.sampling is not None) == (BLOCK, True)


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    planner = make_planner(blocks=8, max_running=1, prefix_cache=True)
    add(planner, "a", 9, priority=1)
    advance(planner)
    add(planner, "urgent", 2, max_tokens=1)
    assert advance(planner).preempted == ("a",)
    planner.remove("urgent")
    assert shape(advance(planner)) == {"a": (8, 2, True)}


def test_only_what_lay_there_at_first_counts_as_cached() -> None:
    planner = make_planner(blocks=8, max_running=1, prefix_cache=True)
    add(planner, "a", 9, priority=1)
    assert planner["a"].cached is None
    advance(planner)
    add(planner, "urgent", 9, max_tokens=1)
    assert advance(planner).preempted == ("a",)
    assert planner["urgent"].cached == 2 * BLOCK
    planner.remove("urgent")
    assert shape(advance(planner)) == {"a": (8, 2, True)}
    assert planner["a"].cached == 0  # what it has found since it computed itself


def test_without_a_cache_nothing_is_cached() -> None:
    planner = make_planner()
    for name in "ab":
        add(planner, name, 9)
        advance(planner)
        assert planner[name].cached == 0


def test_choices_of_one_request_compute_its_prompt_once() -> None:
    planner = make_planner(token_budget=8, prefix_cache=True)
    for name in "abc":
        add(planner, name, 14)
    assert shape(advance(planner)) == {"a": (0, 8, False)}
    assert shape(advance(planner)) == {"a": (8, 6, True)}
    assert shape(advance(planner)) == {"a": (14, 1, True), "b": (12, 2, True), "c": (12, 2, True)}


def test_a_choice_does_not_wait_for_one_that_was_preempted_or_is_less_urgent() -> None:
    planner = make_planner(token_budget=8, prefix_cache=True)
    add(planner, "lesser", 14, priority=1)
    advance(planner)
    add(planner, "urgent", 14)
    assert shape(advance(planner))["urgent"] == (8, 6, True)
    planner.remove("urgent")
    planner.spoil("lesser")
    planner.remove("lesser")
    add(planner, "first", 14)
    advance(planner)
    planner.remove("first")  # aborted in the middle of its prompt
    add(planner, "second", 14)
    assert shape(advance(planner)) == {"second": (8, 6, True)}


def test_a_prompt_shorter_than_a_block_is_nothing_to_wait_for() -> None:
    planner = make_planner(prefix_cache=True)
    for name in "ab":
        add(planner, name, BLOCK)
    assert shape(advance(planner)) == {"a": (0, 4, True), "b": (0, 4, True)}


def test_nobody_finds_what_turned_out_to_be_nonsense() -> None:
    planner = make_planner(prefix_cache=True)
    add(planner, "a", 9)
    advance(planner)
    add(planner, "b", 13)
    advance(planner)
    planner.spoil("b")  # "a" may be where it came from
    planner.remove("b")
    planner.remove("a")
    planner.check()
    add(planner, "c", 13)
    assert shape(advance(planner)) == {"c": (0, 13, True)}


def test_what_lies_behind_nonsense_is_not_found_either() -> None:
    planner = make_planner(prefix_cache=True)
    add(planner, "long", 13)
    add(planner, "short", 5)
    advance(planner)
    planner.remove("long")
    planner.spoil("short")
    planner.remove("short")
    planner.check()
    add(planner, "next", 13)
    assert shape(advance(planner)) == {"next": (0, 13, True)}


def test_tenants_share_nothing() -> None:
    planner = make_planner(prefix_cache=True)
    for name in "ab":
        planner.add(
            Sequence(
                id=name, tokens=list(range(9)), prompt_length=9, sampling=Sampling(max_tokens=1, seed=0), priority=0, arrival=0, salt=name
            )
        )
        [row] = advance(planner).rows
        planner.remove(name)
    assert row.start == 0

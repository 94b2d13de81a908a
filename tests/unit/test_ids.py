from headrace.ids import choose_shard, is_job_id, new_job_id, shard_of


def test_an_id_names_its_shard_and_sorts_by_time() -> None:
    early, late = new_job_id(7, 1_000), new_job_id(7, 2_000)
    assert is_job_id(early)
    assert shard_of(early) == shard_of(late) == 7
    assert early < late
    assert new_job_id(7, 1_000) != early


def test_what_is_no_id_is_told_apart() -> None:
    for text in ("", "x", "0" * 30, "0" * 32, "0" * 30 + "g", "0" * 31 + "\n", "../" + "0" * 28):
        assert not is_job_id(text)


def test_equal_keys_meet_in_one_shard() -> None:
    assert len({choose_shard("a", "key", 16) for _ in range(10)}) == 1
    assert len({choose_shard("a", f"key {i}", 16) for i in range(200)}) == 16
    assert {choose_shard("a", None, 1) for _ in range(10)} == {0}

"""What `headrace/batch_ports.py` promises of files."""

import asyncio
from dataclasses import replace

import pytest

from headrace.errors import FileNotKnown, IdempotencyConflict
from headrace.file import FileRecord, Purpose
from headrace.ids import new_batch_id
from headrace.testing.registry_bench import RegistryBench

UNKNOWN = "file-" + "f" * 32


class TestAdd:
    async def test_a_record_comes_back_as_it_was(self, registries: RegistryBench) -> None:
        plain = registries.file(filename="", size=0)
        full = registries.file(
            filename='né\u2028"\\\n😀\x00../x',
            size=2**40,
            created_ms=2**41,
            purpose=Purpose.BATCH_OUTPUT,
            expires_ms=2**42,
            batch_id="batch_1",
        )
        for record in (plain, full):
            stored = await registries.add(record)
            assert (stored.id, stored.replayed) == (record.id, False)
            assert await registries.files.get("alice", record.id) == record

    async def test_the_same_key_and_body_answer_with_the_first(self, registries: RegistryBench) -> None:
        first = await registries.added(key="k")
        again = await registries.add(registries.file(), key="k")
        assert (again.id, again.replayed) == (first.id, True)
        assert await registries.listed() == [first]

    async def test_the_same_key_with_another_body_is_a_conflict(self, registries: RegistryBench) -> None:
        first = await registries.added(key="k")
        with pytest.raises(IdempotencyConflict, match=first.id):
            await registries.add(registries.file(), key="k", body_hash="other")
        assert await registries.listed() == [first]

    async def test_a_key_belongs_to_its_tenant(self, registries: RegistryBench) -> None:
        await registries.added(key="b:c", tenant="a")
        for tenant, key in (("b", "b:c"), ("a:b", "c")):
            stored = await registries.add(registries.file(tenant=tenant), key=key, body_hash="other")
            assert not stored.replayed

    async def test_an_empty_key_is_a_key(self, registries: RegistryBench) -> None:
        first = await registries.added(key="")
        assert (await registries.add(registries.file(), key="")).id == first.id
        assert not (await registries.add(registries.file())).replayed

    async def test_without_a_key_the_id_is_one(self, registries: RegistryBench) -> None:
        record = await registries.added()
        again = await registries.add(record)
        assert (again.id, again.replayed) == (record.id, True)
        await registries.added()
        assert len(await registries.listed()) == 2

    async def test_concurrent_calls_under_one_key_make_one_record(self, registries: RegistryBench) -> None:
        stored = await asyncio.gather(*(registries.add(registries.file(), key="k") for _ in range(20)))
        assert len({one.id for one in stored}) == 1
        assert sum(not one.replayed for one in stored) == 1

    async def test_a_key_lives_as_long_as_its_file(self, registries: RegistryBench) -> None:
        first = await registries.added(key="k")
        await registries.advance(10**12)
        assert (await registries.add(registries.file(), key="k")).id == first.id
        await registries.files.remove("alice", first.id)
        assert not (await registries.add(registries.file(), key="k", body_hash="other")).replayed


class TestPut:
    async def test_it_adds(self, registries: RegistryBench) -> None:
        record = registries.file(batch_id="batch_1", purpose=Purpose.BATCH_OUTPUT)
        for _ in range(2):  # a lost reply
            await registries.files.put(record)
        assert await registries.listed() == [record]

    async def test_it_replaces_in_place(self, registries: RegistryBench) -> None:
        first, last = await registries.added(key="k", expires_ms=1), await registries.added()
        newer = registries.file(id=first.id, size=99, purpose=Purpose.BATCH_OUTPUT)
        await registries.files.put(newer)
        assert await registries.files.get("alice", first.id) == newer
        assert await registries.listed() == [last, newer]
        assert await registries.listed(purpose=Purpose.BATCH) == [last]
        assert await registries.listed(purpose=Purpose.BATCH_OUTPUT) == [newer]
        assert await registries.files.overdue(10) == []
        assert (await registries.add(registries.file(), key="k")).id == first.id


class TestReads:
    @pytest.mark.parametrize("file_id", [UNKNOWN, "", "nonsense", "{files}", "../x"])
    async def test_an_unknown_id(self, registries: RegistryBench, file_id: str) -> None:
        with pytest.raises(FileNotKnown):
            await registries.files.get("alice", file_id)
        with pytest.raises(FileNotKnown):
            await registries.files.remove("alice", file_id)
        with pytest.raises(FileNotKnown):
            await registries.listed(after=file_id)

    async def test_another_tenants_file_does_not_exist(self, registries: RegistryBench) -> None:
        record, other = await registries.added(), await registries.added(tenant="bob")
        with pytest.raises(FileNotKnown):
            await registries.files.get("bob", record.id)
        with pytest.raises(FileNotKnown):
            await registries.files.remove("bob", record.id)
        with pytest.raises(FileNotKnown):
            await registries.listed("bob", after=record.id)
        assert await registries.listed("bob") == [other]
        assert await registries.files.get("alice", record.id) == record
        assert await registries.listed("nobody") == []

    async def test_whether_files_exist_whoevers_they_are(self, registries: RegistryBench) -> None:
        a, b = await registries.added(), await registries.added(tenant="bob")
        assert await registries.files.known([b.id, UNKNOWN, "", a.id, a.id]) == [True, False, False, True, True]
        assert await registries.files.known([]) == []

    @pytest.mark.parametrize("newest_first", [True, False])
    async def test_pages_have_no_gaps_though_the_clock_stands(self, registries: RegistryBench, newest_first: bool) -> None:
        """Nor though their makers' clocks disagree."""
        records = [await registries.added(created_ms=created_ms) for created_ms in (5, 1, 3, 3, 9, 2, 4)]
        seen: list[FileRecord] = []
        while page := await registries.listed(after=seen[-1].id if seen else None, limit=3, newest_first=newest_first):
            assert len(page) <= 3
            seen += page
        assert seen == (records[::-1] if newest_first else records)

    async def test_the_order_outlives_a_clock_that_steps_back(self, registries: RegistryBench) -> None:
        first = await registries.added()
        await registries.advance(-60_000)
        second = await registries.added()
        assert await registries.listed() == [second, first]

    async def test_pages_of_one_purpose(self, registries: RegistryBench) -> None:
        made = [await registries.added(purpose=purpose) for purpose in [*Purpose] * 3]
        outputs = [record for record in made if record.purpose is Purpose.BATCH_OUTPUT]
        assert await registries.listed(purpose=Purpose.BATCH_OUTPUT, limit=2, newest_first=False) == outputs[:2]
        # A list may be asked for behind a file that is not in it.
        behind = await registries.listed(purpose=Purpose.BATCH_OUTPUT, after=made[2].id, newest_first=False)
        assert behind == outputs[1:]

    async def test_what_comes_meanwhile_moves_no_page(self, registries: RegistryBench) -> None:
        old = [await registries.added() for _ in range(4)]
        first = await registries.listed(limit=2)
        await registries.added()
        assert first + await registries.listed(after=first[-1].id, limit=2) == old[::-1]

    async def test_a_record_of_an_unknown_version_hides_no_other(self, registries: RegistryBench) -> None:
        strange, record = await registries.added(), await registries.added()
        key = f"headrace:{{files}}:record:{strange.id}"
        body = await registries.raw.hget(key, "body")
        await registries.raw.hset(key, "body", body.replace('"batch"', '"assistants"'))
        assert await registries.listed() == [record]


class TestEnd:
    async def test_a_removed_file_is_forgotten(self, registries: RegistryBench) -> None:
        record = await registries.added(key="k", expires_ms=1)
        await registries.files.remove("alice", record.id)
        with pytest.raises(FileNotKnown):
            await registries.files.get("alice", record.id)
        with pytest.raises(FileNotKnown):
            await registries.files.remove("alice", record.id)
        assert await registries.listed() == []
        assert await registries.files.overdue(10) == []
        left = {key async for key in registries.raw.scan_iter(match="headrace:{files}:*")}
        assert left == {"headrace:{files}:arrival"}

    async def test_what_is_overdue(self, registries: RegistryBench) -> None:
        now = registries.now_ms
        last = await registries.added(expires_ms=now + 2_000)
        first = await registries.added(expires_ms=now + 1_000, tenant="bob")
        await registries.added()
        await registries.advance(999)
        assert await registries.files.overdue(10) == []
        await registries.advance(1)
        assert await registries.files.overdue(10) == [first]
        await registries.advance(1_000)
        assert await registries.files.overdue(10) == [first, last]
        assert await registries.files.overdue(1) == [first]
        await registries.files.remove("bob", first.id)
        assert await registries.files.overdue(1) == [last]

    async def test_what_a_batch_still_writes_has_its_time_too(self, registries: RegistryBench) -> None:
        """Or what is put for a batch that has ended would stay for ever."""
        expires_ms = registries.now_ms + 1_000
        written = await registries.added(expires_ms=expires_ms, batch_id="batch_1")
        assert await registries.files.overdue(10) == []
        await registries.advance(1_000)
        assert await registries.files.overdue(10) == [written]
        done = registries.file(id=written.id, expires_ms=expires_ms + 1_000)
        await registries.files.put(done)
        assert await registries.files.overdue(10) == []
        await registries.advance(1_000)
        assert await registries.files.overdue(10) == [done]


async def test_a_record_that_is_still_written_never_replaces_a_finished_one(registries: RegistryBench) -> None:
    written = registries.file(purpose=Purpose.BATCH_OUTPUT, batch_id=new_batch_id())
    await registries.files.put(written)
    await registries.files.put(more := replace(written, size=20))
    assert await registries.files.get("alice", written.id) == more
    whole = replace(written, size=30, batch_id=None)
    await registries.files.put(whole)
    await registries.files.put(more)
    assert await registries.files.get("alice", written.id) == whole

import asyncio
import random

from headrace.kafka.room import Room


async def test_first_come_first_served_and_never_more_than_there_is() -> None:
    room, held, most, order = Room(10), 0, 0, []

    async def use(number: int, wanted: int) -> None:
        nonlocal held, most
        await room.take(wanted)
        order.append(number)
        held += wanted
        most = max(most, held)
        await asyncio.sleep(0)
        held -= wanted
        room.give_back(wanted)

    await asyncio.gather(*(use(number, random.Random(number).randint(1, 10)) for number in range(200)))
    assert order == list(range(200))
    assert most <= 10


async def test_what_is_larger_than_the_room_has_it_alone() -> None:
    room = Room(10)
    await room.take(1)
    large = asyncio.ensure_future(room.take(1_000))
    await asyncio.sleep(0)
    assert not large.done()
    room.give_back(1)
    await large
    small = asyncio.ensure_future(room.take(1))
    await asyncio.sleep(0)
    assert not small.done()
    room.give_back(1_000)
    await small


async def test_whoever_gives_up_in_front_lets_those_behind_in() -> None:
    room = Room(10)
    await room.take(8)
    large, small = asyncio.ensure_future(room.take(5)), asyncio.ensure_future(room.take(2))
    await asyncio.sleep(0)
    large.cancel()
    await small


async def test_giving_up_in_the_moment_of_ones_turn_loses_no_room() -> None:
    room = Room(10)
    await room.take(10)
    unlucky = asyncio.ensure_future(room.take(10))
    await asyncio.sleep(0)
    room.give_back(10)
    unlucky.cancel()
    await asyncio.gather(unlucky, return_exceptions=True)
    async with asyncio.timeout(1):
        await room.take(10)

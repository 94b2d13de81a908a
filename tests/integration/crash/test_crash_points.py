"""Every command that the processes of a short story send to the store, in turn: it fails, or its reply is lost, or it is the last thing
that its process does, or was about to do. The story ends as if nothing had happened. With Kafka in front of the store the records that are
appended and the offsets that are committed are commands as well.
"""

from collections.abc import Iterator, Sequence

import pytest

from headrace.testing.fuse import Blow, Fuse
from headrace.testing.kafka_fuse import APPEND, COMMIT
from headrace.testing.scale import FULL_SIZE
from tests.integration.crash.kafka_story import kafka_story
from tests.integration.crash.story import STORY
from tests.integration.crash.theatre import Theatre, opened

STRIDE = 1 if FULL_SIZE else 10
"""By default each of the four ways has a tenth of the repeated commands to itself."""


def places(commands: Sequence[str], blow: Blow) -> list[int]:
    """Counted from 1, of the first command of each name, and of every STRIDE-th of the others."""
    first = {commands.index(name) + 1 for name in commands}
    others = [at for at in range(1, len(commands) + 1) if at not in first]
    return sorted([*first, *others[list(Blow).index(blow) % STRIDE :: STRIDE]])


@pytest.fixture(scope="module", params=[1, 2] if FULL_SIZE else [1], ids="{} shards".format)
def theatre(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Theatre]:
    """With several shards a call of a port is several commands, and a process may die in the middle of one."""
    with opened(STORY, tmp_path_factory.mktemp("v"), request.param) as theatre:
        yield theatre


@pytest.fixture(scope="module")
def kafka_theatre(tmp_path_factory: pytest.TempPathFactory, kafka_of_all: str) -> Iterator[Theatre]:
    with opened(kafka_story(kafka_of_all), tmp_path_factory.mktemp("v"), 1) as theatre:
        yield theatre


def tell(theatre: Theatre, blow: Blow, at: int) -> None:
    try:
        theatre.tell(Fuse(at, blow))
    except BaseException as error:
        error.add_note(f"command {at} ({theatre.commands[at - 1]}): {blow}")
        raise


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of a fork beside threads that other tests may have left
@pytest.mark.parametrize("blow", list(Blow))
def test_the_story_ends_as_if_nothing_had_happened(theatre: Theatre, blow: Blow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer_api.written._REPEAT_AFTER_S", 0.0)
    assert len(theatre.commands) > 60, "are the commands still counted?"
    for at in places(theatre.commands, blow):
        tell(theatre, blow, at)


@pytest.mark.kafka
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("blow", list(Blow))
def test_it_does_so_with_kafka_in_front(kafka_theatre: Theatre, blow: Blow, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default at every command before the first worker comes: what the others do is in the story above."""
    monkeypatch.setattr("producer_api.written._REPEAT_AFTER_S", 0.0)
    commands = kafka_theatre.commands
    assert [commands.count(name) for name in (APPEND, COMMIT)] == [9, 2], "are they still counted?"
    for at in {*range(1, commands.index(COMMIT, commands.index(COMMIT) + 1) + 2), *places(commands, blow)}:
        tell(kafka_theatre, blow, at)

"""The model of a run: a few hundred words, one of which is poison."""

from pathlib import Path

from headrace.testing.tiny_model import UNKNOWN, make_model

NAME = "chaos-model"
POISON = "poison"
POISON_ID = 2
WORDS = 400
CONTEXT = 8_192


def words() -> list[str]:
    return [f"w{number}" for number in range(WORDS)]


def make_chaos_model(folder: Path) -> None:
    vocabulary = [UNKNOWN, "user", POISON, *words()]
    assert vocabulary[POISON_ID] == POISON
    make_model(folder, vocabulary, CONTEXT)

"""The batches of a run, decided beforehand from the seed, with what each line must come to."""

import random
from dataclasses import dataclass
from enum import StrEnum

import orjson

from tests.chaos.model import NAME, POISON
from tests.chaos.orders import ORDERS_PER_POISON, Encode, Owned, conversation, random_words
from workers.backends.scripted import answer_to, text_of

LINES_PER_BATCH = 100
FEWEST = 5
"""Batches of a run, however short."""
SHORTEST, LONGEST = 8, 100
"""Tokens of an answer."""
LONGEST_CANCELLED = 1_000
"""Of every other line in a batch that is to be cancelled: some are done by then, and these should not be, whoever was away meanwhile."""
BEGIN_WITHIN = 0.7
"""The last batch begins when so much of the other load is over: what strikes after that still finds it at work."""


class BatchKind(StrEnum):
    WHOLE = "batch"
    CANCELLED = "cancelled batch"
    FAULTY = "faulty batch"
    """Some of its lines cannot be read, so none of them may run."""


TURNS = (BatchKind.WHOLE, BatchKind.CANCELLED, BatchKind.WHOLE, BatchKind.FAULTY, BatchKind.WHOLE)
"""Kinds of the first batches and so on, again and again."""


class Flaw(StrEnum):
    """What is wrong with a line, as the API must name it."""

    NO_JSON = "invalid_json_line"
    METHOD = "invalid_method"
    URL = "mismatched_url"


@dataclass(frozen=True, slots=True)
class Line:
    custom_id: str
    content: str
    tokens: tuple[int, ...]
    """The whole answer."""
    poisonous: bool = False
    flaw: Flaw | None = None

    @property
    def text(self) -> str:
        return text_of(self.tokens)

    @property
    def data(self) -> bytes:
        """As it stands in the input, with its newline."""
        line = {
            "custom_id": self.custom_id,
            "method": "GET" if self.flaw is Flaw.METHOD else "POST",
            "url": "/v1/nothing" if self.flaw is Flaw.URL else "/v1/chat/completions",
            "body": {"model": NAME, "messages": conversation(self.content), "max_tokens": len(self.tokens)},
        }
        data = orjson.dumps(line)
        return (data[:-1] if self.flaw is Flaw.NO_JSON else data) + b"\n"


@dataclass(frozen=True, slots=True)
class BatchOrder(Owned):
    number: int
    kind: BatchKind
    after: int
    """Orders of the other load that are over when it begins."""
    lines: tuple[Line, ...]
    seed: int
    """For the client's own moves."""

    @property
    def key(self) -> str:
        """Its Idempotency-Key, and its file's."""
        return f"batch-{self.number}"

    @property
    def content(self) -> bytes:
        """Of its input file."""
        return b"".join(line.data for line in self.lines)


def make_batches(seed: int, lines: int, others: int, encode: Encode) -> list[BatchOrder]:
    """Batches of `lines` lines in all, spread over a load of `others` orders. At least one line is poison, and only in a whole batch."""
    rng = random.Random(f"batches {seed}")
    count = max(FEWEST, lines // LINES_PER_BATCH)
    sizes = [lines // count + (number < lines % count) for number in range(count)]
    kinds = [TURNS[number % len(TURNS)] for number in range(count)]
    begins = [int(others * BEGIN_WITHIN * number / count) for number in range(count)]
    whole = [number for number, kind in enumerate(kinds) if kind is BatchKind.WHOLE]
    poisoned = set(rng.sample(whole, min(len(whole), max(1, lines // ORDERS_PER_POISON))))
    return [
        BatchOrder(number, kind, after, _lines(number, kind, size, number in poisoned, rng, encode), rng.getrandbits(32))
        for number, (kind, after, size) in enumerate(zip(kinds, begins, sizes, strict=True))
    ]


def _lines(batch: int, kind: BatchKind, size: int, poisoned: bool, rng: random.Random, encode: Encode) -> tuple[Line, ...]:
    poison = rng.randrange(size) if poisoned else None
    flaws = dict(zip(rng.sample(range(size), min(size, len(Flaw))), Flaw, strict=False)) if kind is BatchKind.FAULTY else {}
    return tuple(_line(f"batch-{batch}-line-{i}", _length(kind, i, rng), i == poison, flaws.get(i), rng, encode) for i in range(size))


def _length(kind: BatchKind, index: int, rng: random.Random) -> int:
    if kind is BatchKind.CANCELLED and index % 2:
        return LONGEST_CANCELLED
    return rng.randint(SHORTEST, LONGEST)


def _line(custom_id: str, length: int, poisonous: bool, flaw: Flaw | None, rng: random.Random, encode: Encode) -> Line:
    content = f"{POISON} {random_words(rng)}" if poisonous else random_words(rng)
    return Line(custom_id, content, answer_to(encode(conversation(content)), length), poisonous, flaw)

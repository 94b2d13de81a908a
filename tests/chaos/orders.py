"""What the clients will do, decided beforehand from the seed, with the answer each of them must get."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.chaos.model import POISON, words
from workers.backends.scripted import answer_to

Encode = Callable[[Sequence[dict[str, str]]], tuple[int, ...]]
"""Messages of a conversation to the ids of its prompt."""

ORDERS_PER_POISON = 1_000
RICH = 0.12
"""Share of orders that ask for what only records of the second version can say: several choices, with the ids of their tokens."""
MOST_CHOICES = 3
SHORTEST, LONGEST = 4, 24
"""Tokens of an answer."""
LONGEST_CANCELLED = 200
"""Of one that is to be cancelled: most cancels should meet a job that runs, and some one that is being finished."""
TENANTS = ("ann", "bob")
"""In turns."""
LINGERING, LINGERS = 6, 6_000
"""The last orders leave answers behind that nobody waits for, and that would take a minute at least."""


class Kind(StrEnum):
    STREAM = "stream"
    """Reads a chat's stream to its end."""
    HOP = "hop"
    """The same, but drops the connection every few events and goes on at the other replica."""
    WHOLE = "whole"
    """Waits for the whole answer in one piece."""
    JOB = "job"
    """Submits, goes away, asks now and then, and reads the answer once it is done."""
    REPEAT = "repeat"
    """Sends the same request several times at once, under one key and to both replicas."""
    CANCEL_STREAM = "cancel stream"
    CANCEL_JOB = "cancel job"
    LEAVE = "leave"
    """Drops its stream and never comes back."""
    POISON = "poison"
    """A job whose prompt kills any engine that runs it."""


SHARES = {
    Kind.STREAM: 46,
    Kind.HOP: 18,
    Kind.WHOLE: 6,
    Kind.JOB: 16,
    Kind.REPEAT: 5,
    Kind.CANCEL_STREAM: 3,
    Kind.CANCEL_JOB: 3,
    Kind.LEAVE: 3,
}


class Owned:
    """Something numbered that belongs to one of the tenants."""

    __slots__ = ()
    number: int

    @property
    def tenant(self) -> str:
        return TENANTS[self.number % len(TENANTS)]

    @property
    def stranger(self) -> str:
        """Another tenant."""
        return TENANTS[(self.number + 1) % len(TENANTS)]


@dataclass(frozen=True, slots=True)
class Order(Owned):
    """One request of one client."""

    number: int
    kind: Kind
    content: str
    tokens: tuple[int, ...]
    """The whole answer."""
    seed: int
    """For the client's own moves: when to hop, cancel or leave."""
    more: tuple[tuple[int, ...], ...] = ()
    """The other choices, if it is a rich one."""

    @property
    def key(self) -> str:
        """Its Idempotency-Key."""
        return f"order-{self.number}"

    @property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        return (self.tokens, *self.more)

    @property
    def poisonous(self) -> bool:
        return self.kind is Kind.POISON

    @property
    def lingers(self) -> bool:
        """Only its viewer's grace ends it."""
        return len(self.tokens) == LINGERS

    @property
    def asked(self) -> dict[str, Any]:
        """Its body, without the model."""
        rich = {"n": len(self.choices), "return_token_ids": True} if self.more else {}
        return {"messages": conversation(self.content), "max_tokens": len(self.tokens), **rich}


def conversation(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def random_words(rng: random.Random) -> str:
    return " ".join(rng.choices(words(), k=rng.randint(3, 12)))


def make_orders(seed: int, count: int, encode: Encode) -> list[Order]:
    """`count` orders; one in ORDERS_PER_POISON is poison, one at least, and none among the last: quarantine takes its time. The very last
    ones linger."""
    rng = random.Random(f"orders {seed}")
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    for number in rng.sample(range(count * 4 // 5), max(1, count // ORDERS_PER_POISON)):
        kinds[number] = Kind.POISON
    orders = [_order(number, kind, rng.randint(SHORTEST, _longest(kind)), rng, encode) for number, kind in enumerate(kinds[:-LINGERING])]
    return orders + [_order(number, Kind.LEAVE, LINGERS, rng, encode) for number in range(len(orders), count)]


def _longest(kind: Kind) -> int:
    return LONGEST_CANCELLED if kind in (Kind.CANCEL_STREAM, Kind.CANCEL_JOB) else LONGEST


def _order(number: int, kind: Kind, length: int, rng: random.Random, encode: Encode) -> Order:
    content = random_words(rng)
    if kind is Kind.POISON:
        content = f"{POISON} {content}"
    prompt = encode(conversation(content))
    rich = kind is not Kind.POISON and length != LINGERS and rng.random() < RICH
    choices = [answer_to(prompt, length, choice) for choice in range(rng.randint(2, MOST_CHOICES) if rich else 1)]
    return Order(number, kind, content, choices[0], rng.getrandbits(32), tuple(choices[1:]))

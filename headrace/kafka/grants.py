"""Which topics a tenant's batches may use. Pure.

    reports=reports.in,reports=reports.out,evals=evals.*        tenant=topic, or tenant=what its name begins with and an asterisk

A list, and not one prefix with the tenant's name in it: names of tenants may hold dots, and "a.b.in" would be a topic of "a" and of "a.b".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import SettingsError
from headrace.keys import is_tenant

TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
"""What Kafka takes for a topic's name, but for "." and ".."."""
_GRANT = re.compile(r"([^=]+)=([A-Za-z0-9._-]*\*|[A-Za-z0-9._-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grants:
    granted: frozenset[tuple[str, str]]
    """Tenants with patterns of topics."""
    closed: Sequence[str]
    """What the names of topics begin with that nobody may use: they have others' requests and answers, or are the brokers' own."""

    def allows(self, tenant: str, topic: str) -> bool:
        if not TOPIC.fullmatch(topic) or topic.startswith(tuple(self.closed)):
            return False
        return any(one == tenant and _fits(pattern, topic) for one, pattern in self.granted)


def read_grants(text: str, prefix: str) -> Grants:
    """`prefix`: that of Headrace's own topics. Raises SettingsError."""
    granted = set()
    for grant in filter(None, (part.strip() for part in text.split(","))):
        parts = _GRANT.fullmatch(grant)
        if parts is None or not is_tenant(parts[1]):
            raise SettingsError(f"HEADRACE_KAFKA_BATCH_TOPICS must hold tenant=topic or tenant=beginning*, got {grant[:80]!r}")
        granted.add((parts[1], parts[2]))
    return Grants(frozenset(granted), (f"{prefix}.", "__"))


def _fits(pattern: str, topic: str) -> bool:
    return topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern

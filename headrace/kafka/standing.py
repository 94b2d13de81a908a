"""Where a member of the group stands."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.kafka.window import Partition


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    reachable: bool
    """The broker answered lately, and partitions are ours."""
    lag: Mapping[Partition, int]
    """Records of our partitions that are not fetched yet."""
    paused: frozenset[Partition]
    in_flight: int

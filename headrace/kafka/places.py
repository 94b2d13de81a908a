"""Where a member of the group reads on, when that is not simply behind what it read last.

A topic that is deleted and made again numbers its records anew: who goes on from the old position reads none of them, and who takes low
offsets for those that were delivered already passes them over. Retention deletes what was not read in time. Neither is left to the client,
which says nothing of either.
"""

import logging
from collections.abc import Collection, Iterable
from typing import Any

from kafka import TopicPartition

logger = logging.getLogger(__name__)

_NO_ID = 0


class Identities:
    """Which topics these are: a topic that was made again has another id. Older brokers tell none."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._known: dict[str, Any] = dict.fromkeys(topics)

    def made_anew(self, consumer: Any) -> set[str]:
        """The topics whose id is another one than when it was asked for last, as far as the client knows."""
        changed = set()
        for topic, before in self._known.items():
            now = consumer._cluster.topic_id(topic)  # it has no other way to ask for this
            if now is None or now.int == _NO_ID:
                continue
            if before not in (None, now):
                changed.add(topic)
            self._known[topic] = now
        return changed

    def missing(self, consumer: Any) -> list[str]:
        """The topics that the brokers do not have, as far as the client knows."""
        return [topic for topic in self._known if consumer._cluster.partitions_for_topic(topic) is None]


def read_from_beginning(consumer: Any, places: Collection[TopicPartition]) -> None:
    """They were made anew."""
    named = ", ".join(f"{place.topic}/{place.partition}" for place in sorted(places))
    logger.warning("what was read before is not there any more, new partitions are read from their beginning: %s", named)
    consumer.seek_to_beginning(*places)


def read_from_what_is_left(consumer: Any, place: TopicPartition, position: int, first: int) -> None:
    """Retention was faster than we, or somebody has deleted records."""
    logger.error("the records %d to %d of %s/%d were deleted before they were read", position, first - 1, place.topic, place.partition)
    consumer.seek(place, first)

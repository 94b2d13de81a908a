"""The topics that batches are fed from and answered to."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from headrace.batch import Bounds, Span
from headrace.kafka.address import Address
from headrace.kafka.grants import Grants, read_grants
from headrace.kafka.log_record import LogRecord
from headrace.kafka.producer import ANSWER_SHARE, LogProducer
from headrace.kafka.range_reader import ANSWER_S, RangeReader
from headrace.settings import Settings


class KafkaBatchTopics:
    """Implements BatchTopics, and TopicLog of those who work on batches. It connects for each call: there are few."""

    def __init__(self, address: Address, grants: Grants, *, timeout_s: float) -> None:
        """`timeout_s`: the longest that an append takes, or to be told of a topic."""
        self._address = address
        self._grants = grants
        self._timeout_s = timeout_s
        self._reader = RangeReader(address.options(), max(ANSWER_S, ANSWER_SHARE * timeout_s))

    @classmethod
    def of(cls, settings: Settings, address: Address) -> Self:
        """Raises SettingsError."""
        grants = read_grants(settings.kafka_batch_topics or "", settings.kafka_prefix)
        return cls(address, grants, timeout_s=settings.kafka_timeout_s)

    def allows(self, tenant: str, topic: str) -> bool:
        return self._grants.allows(tenant, topic)

    async def bounds(self, topic: str) -> dict[int, Bounds]:
        return await self._reader.bounds(topic, self._timeout_s)

    def read(self, topic: str, span: Span) -> AsyncGenerator[list[LogRecord], None]:
        return self._reader.read(topic, span)

    @asynccontextmanager
    async def writing(self, topic: str) -> AsyncIterator[LogProducer]:
        async with LogProducer(self._address, [topic], timeout_s=self._timeout_s, remedy=", which is its owner's to make") as log:
            yield log

"""The topics: their names, what each of them keeps, and their creation.

<prefix>.accepted      what the API has accepted, by job id: written by the API alone, read by the pump
<prefix>.requests      what native clients ask for
<prefix>.results       one terminal record for each job, by the id of its request; compacted
<prefix>.tokens        the tokens of those native requests that want them
<prefix>.dead-letter   records that nobody could make sense of, with the reason
"""

import logging
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from headrace.errors import LogUnavailable, SettingsError
from headrace.kafka.address import Address
from headrace.kafka.client import open_client
from headrace.settings import Settings

logger = logging.getLogger(__name__)

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Of one record, with room to spare for the largest request body (4 MB) once it is tokenized. Kafka's own default is 1 MiB, and that of its
client too."""

ANSWER_S = 10.0
"""How long the brokers may take to create what is missing."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names."""

    prefix: str

    @property
    def accepted(self) -> str:
        return f"{self.prefix}.accepted"

    @property
    def requests(self) -> str:
        return f"{self.prefix}.requests"

    @property
    def results(self) -> str:
        return f"{self.prefix}.results"

    @property
    def tokens(self) -> str:
        return f"{self.prefix}.tokens"

    @property
    def dead_letter(self) -> str:
        return f"{self.prefix}.dead-letter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How a topic is made."""

    name: str
    partitions: int
    replicas: int
    """-1: as the brokers make them."""
    configs: dict[str, str]


def shapes(settings: Settings) -> list[Shape]:
    """All topics as the settings want them. Raises SettingsError if they would forget a request that may still run."""
    if settings.kafka_retention_s < (longest := settings.job_ttl_s + settings.retention_s):
        raise SettingsError(
            f"HEADRACE_KAFKA_RETENTION_S must be at least HEADRACE_JOB_TTL_S + HEADRACE_RETENTION_S, which is {longest}, "
            f"got {settings.kafka_retention_s}"
        )
    topics, keep = Topics(settings.kafka_prefix), {"cleanup.policy": "delete", "retention.ms": str(settings.kafka_retention_s * 1000)}
    # Kafka deletes whole segments, late: a request must not outlive the word that it has ended, or a store that is lost would run it again.
    compact = {"cleanup.policy": "compact,delete", "retention.ms": str(2 * settings.kafka_retention_s * 1000)}
    # The pump reads it again from a point in time, for which a stranger's clock is no measure.
    stamped = {**keep, "message.timestamp.type": "LogAppendTime"}
    return [
        _shape(settings, topics.accepted, keep),
        _shape(settings, topics.requests, stamped),
        _shape(settings, topics.results, compact),
        _shape(settings, topics.tokens, keep),
        _shape(settings, topics.dead_letter, keep),
    ]


def _shape(settings: Settings, name: str, keeps: dict[str, str]) -> Shape:
    configs = {**keeps, "max.message.bytes": str(MAX_RECORD_BYTES)}
    if settings.kafka_replicas is not None and settings.kafka_replicas >= 3:
        # What is acknowledged outlives a broker, and one that is away holds up nobody. Two replicas allow only one of these.
        configs["min.insync.replicas"] = "2"
    return Shape(name=name, partitions=settings.kafka_partitions, replicas=settings.kafka_replicas or -1, configs=configs)


def create(address: Address, wanted: list[Shape]) -> list[str]:
    """Make the topics that are missing, and leave the others as they are. Returns the names of those that were made.

    It blocks: for a thread, or a command. Raises LogUnavailable.
    """
    try:
        with open_admin(address) as admin:
            there = frozenset(admin.list_topics())
            return [shape.name for shape in wanted if shape.name not in there and _made(admin, shape)]
    except KafkaError as error:
        raise LogUnavailable(f"{address} did not make the topics: {error}") from error


def _made(admin: Any, shape: Shape) -> bool:
    topic = {"num_partitions": shape.partitions, "replication_factor": shape.replicas, "configs": shape.configs}
    try:
        admin.create_topics({shape.name: topic}, timeout_ms=int(ANSWER_S * 1000), wait_for_metadata=True)
    except TopicAlreadyExistsError:  # somebody else was faster
        return False
    return True


def open_admin(address: Address) -> Any:
    """A KafkaAdminClient. Raises KafkaError."""
    limit_ms = int(ANSWER_S * 1000)
    return open_client(KafkaAdminClient, **address.options(), bootstrap_timeout_ms=limit_ms, request_timeout_ms=limit_ms)

"""The queue of the API where Kafka is in front of the store: what is accepted is in the log first."""

from headrace.kafka.acceptance import Acceptance
from headrace.kafka.producer import LogProducer
from headrace.kafka.record import encode_accepted
from headrace.kafka.topics import Topics
from headrace.ports import Accepted, Submission
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Server


class KafkaQueue(RedisQueue):
    """Everything but `accept` is the store's alone: a job is there from its reservation on."""

    def __init__(self, server: Server, *, shards: int, limits: QueueLimits, log: LogProducer, topics: Topics) -> None:
        super().__init__(server, shards=shards, limits=limits)
        self._log = log
        self._topic = topics.accepted
        self._acceptance = Acceptance(self, log.check, self._append)

    async def accept(self, submission: Submission) -> Accepted:
        return await self._acceptance.accept(submission)

    async def _append(self, submission: Submission) -> None:
        await self._log.append(self._topic, submission.request.id.encode(), encode_accepted(submission))

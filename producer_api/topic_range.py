"""Which records of a topic a batch is fed from: what is asked for, against what is there when the batch is accepted."""

from collections.abc import Mapping

from headrace.batch import Bounds, Span, TopicRange
from headrace.batch_ports import BatchTopics
from headrace.errors import InvalidRequest
from producer_api.batch_body import InputTopic, SpanBody

_FIELD = "input_topic"


async def settled_range(topics: BatchTopics | None, tenant: str, asked: InputTopic) -> TopicRange:
    """Raises InvalidRequest, LogUnavailable."""
    bounds = await usable_topic(topics, tenant, asked.name, f"{_FIELD}.name")
    return TopicRange(topic=asked.name, spans=settle(asked, bounds))


async def usable_topic(topics: BatchTopics | None, tenant: str, name: str, param: str) -> Mapping[int, Bounds]:
    """What the topic holds, if the tenant's batches may use it. Raises InvalidRequest, LogUnavailable."""
    if topics is None:
        why = f"'{param}' needs Kafka, which this server has none of: HEADRACE_QUEUE_URL is not set."
        raise InvalidRequest(why, param=param, code="unsupported_parameter")
    # Before anybody looks whether it exists: which topics others have is nothing to tell.
    if not topics.allows(tenant, name):
        raise InvalidRequest(
            f"'{param}' must be a topic that HEADRACE_KAFKA_BATCH_TOPICS grants to tenant {tenant!r}, got {name[:80]!r}.",
            param=param,
            code="topic_not_allowed",
        )
    bounds = await topics.bounds(name)
    if not bounds:
        raise InvalidRequest(f"'{param}' is {name!r}, and there is no such topic.", param=param, code="topic_not_found")
    return bounds


def settle(asked: InputTopic, bounds: Mapping[int, Bounds]) -> tuple[Span, ...]:
    """The spans in full, by partition. Raises InvalidRequest for what is not there: deleted, or not written yet."""
    if asked.partitions is None:
        return tuple(Span(partition=one, start=bounds[one].start, end=bounds[one].end) for one in sorted(bounds))
    spans: dict[int, Span] = {}
    for index, wanted in enumerate(asked.partitions):
        field = f"{_FIELD}.partitions[{index}]"
        if wanted.partition not in bounds:
            raise _wrong(f"{field}.partition", f"must be one of the {len(bounds)} partitions of {asked.name!r}, got {wanted.partition}.")
        if wanted.partition in spans:
            raise _wrong(f"{field}.partition", f"names partition {wanted.partition} for the second time.")
        spans[wanted.partition] = _span(wanted, bounds[wanted.partition], field)
    return tuple(spans[partition] for partition in sorted(spans))


def _span(wanted: SpanBody, there: Bounds, field: str) -> Span:
    start = there.start if wanted.start is None else wanted.start
    end = there.end if wanted.end is None else wanted.end
    if start < there.start:
        message = f"is {start}, but the offsets before {there.start} of partition {wanted.partition} are deleted."
        raise _wrong(f"{field}.from", message, "range_deleted")
    if end > there.end:
        raise _wrong(f"{field}.to", f"must be at most {there.end}, where partition {wanted.partition} ends now, got {end}.")
    if start > end:
        name, limit = ("from", end) if wanted.start is not None else ("to", start)
        bound = "at most" if name == "from" else "at least"
        raise _wrong(f"{field}.{name}", f"must be {bound} {limit}, got {start if name == 'from' else end}.")
    return Span(partition=wanted.partition, start=start, end=end)


def _wrong(param: str, message: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"'{param}' {message}", param=param, code=code)

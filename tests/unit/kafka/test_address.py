import pytest

from headrace.errors import SettingsError
from headrace.kafka.address import Address, address_of
from headrace.settings import Settings, load_settings


def read(url: str, **others: object) -> Address:
    address = address_of(Settings(queue_url=url, **others))  # type: ignore[arg-type]
    assert address is not None
    return address


def test_without_a_url_there_is_no_kafka() -> None:
    assert address_of(Settings()) is None


def test_servers_with_and_without_a_port() -> None:
    assert read("kafka://a:1234,b.example.org,[::1]:9093,10.0.0.1").servers == (
        "a:1234",
        "b.example.org:9092",
        "[::1]:9093",
        "10.0.0.1:9092",
    )


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("kafka://a", "PLAINTEXT"),
        ("kafka+ssl://a", "SSL"),
        ("kafka://me:secret@a", "SASL_PLAINTEXT"),
        ("kafka+ssl://me:secret@a", "SASL_SSL"),
    ],
)
def test_the_protocol_follows_from_scheme_and_login(url: str, protocol: str) -> None:
    assert read(url).options()["security_protocol"] == protocol


def test_a_login_may_hold_any_character() -> None:
    options = read("kafka://me%40home:p%3A%2F%40ss@a,b").options()
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me@home", "p:/@ss")
    assert options["bootstrap_servers"] == ["a:9092", "b:9092"]


def test_settings_come_before_the_url() -> None:
    options = read("kafka+ssl://me:old@a", kafka_password="new", kafka_sasl="PLAIN", kafka_ca_file=__file__).options()
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me", "new")
    assert (options["sasl_mechanism"], options["ssl_cafile"]) == ("PLAIN", __file__)
    assert options["ssl_check_hostname"] is True


@pytest.mark.parametrize(
    "url",
    [
        "redis://a",
        "kafka://",
        "kafka:a",
        "kafka://a,",
        "kafka://a:0",
        "kafka://a:65536",
        "kafka://a:port",
        "kafka://a/topic",
        "kafka://a?sasl=PLAIN",
        "kafka://[::1",
        "kafka://hunter2@",
        "kafka://me:hunter2@a b",
    ],
)
def test_a_bad_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="HEADRACE_QUEUE_URL must be") as caught:
        read(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["kafka://a?sasl=PLAIN", "kafka://a/topic", "kafka+ssl://me:hun/ter2@a", "kafka://me:hun#ter2@a"])
def test_what_stands_behind_the_servers_is_told_of(url: str) -> None:
    with pytest.raises(SettingsError, match="nothing comes behind the servers, options are settings") as caught:
        read(url)
    assert "ter2" not in str(caught.value)


def test_a_file_of_signers_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="HEADRACE_KAFKA_CA_FILE: there is no file /no/"):
        read("kafka+ssl://a", kafka_ca_file="/no/ca.pem")


def test_settings_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs a user"):
        read("kafka://a", kafka_password="hunter2")
    with pytest.raises(SettingsError, match="nothing is encrypted"):
        read("kafka://a", kafka_ca_file="/ca.pem")


def test_the_password_is_in_no_text_about_it() -> None:
    address = read("kafka://me:hunter2@a")
    assert "hunter2" not in f"{address} {address!r}"


def test_what_tests_are_told_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TEST_KAFKA", "127.0.0.1:9092")
    assert load_settings().queue_url is None

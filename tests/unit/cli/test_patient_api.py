"""How long a server is waited for, in a time of the test's own; that it is waited for at all is shown with real ones."""

import httpx
import pytest

from headrace.cli import patient_api
from headrace.cli.patient_api import FAULT_PATIENCE_S, FIRST_PATIENCE_S, PATIENCE_S, PatientApi, Refused, StayedAway
from headrace.errors import HeadraceError

Answer = httpx.Response | httpx.TransportError
REFUSED = httpx.ConnectError("Connection refused")
FINE = httpx.Response(200, json={"id": "batch_1"})


class Time:
    """Passes only where somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(patient_api, "time", clock)
    return clock


class Answers:
    """Each in turn, and then the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)

    def __call__(self, _request: httpx.Request) -> httpx.Response:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, httpx.TransportError):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def said() -> list[str]:
    return []


def api_of(monkeypatch: pytest.MonkeyPatch, said: list[str], *answers: Answer) -> PatientApi:
    transport = httpx.MockTransport(Answers(*answers))
    monkeypatch.setattr(httpx.Client, "_init_transport", lambda *_args, **_options: transport)
    return PatientApi(lambda: "http://server", said.append, through_proxies=False)


def error(status: int, message: str = "Not now.", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}}, headers=headers)


def test_an_outage_is_told_once_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch, clock: Time, said: list[str]) -> None:
    with api_of(monkeypatch, said, REFUSED, error(503), REFUSED, FINE) as api:
        assert api.get("/v1/batches/batch_1") == {"id": "batch_1"}
    assert said == ["waiting for http://server: Connection refused", "http://server answers again"]


@pytest.mark.parametrize(
    ("answers", "within_s"),
    [((REFUSED,), FIRST_PATIENCE_S), ((error(503), REFUSED), PATIENCE_S), ((error(429),), PATIENCE_S), ((error(500),), FAULT_PATIENCE_S)],
)
def test_patience_ends(monkeypatch: pytest.MonkeyPatch, clock: Time, said: list[str], answers: tuple[Answer, ...], within_s: float) -> None:
    with api_of(monkeypatch, said, *answers) as api, pytest.raises(StayedAway, match="no answer from http://server for"):
        api.get("/v1/models")
    assert within_s < clock.now <= within_s + 11


def test_a_pause_that_is_asked_for_is_made(monkeypatch: pytest.MonkeyPatch, clock: Time, said: list[str]) -> None:
    with api_of(monkeypatch, said, error(503, **{"retry-after": "7"}), error(503, **{"retry-after": "3000"}), FINE) as api:
        api.get("/v1/models")
    assert clock.now == 7 + 10


def test_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch, clock: Time, said: list[str]) -> None:
    with api_of(monkeypatch, said, error(404, "No batch.")) as api, pytest.raises(Refused, match="No batch") as refused:
        api.post("/v1/batches", {}, key="k")
    assert (refused.value.status, clock.now, said) == (404, 0.0, [])


def test_what_is_no_api_is_told(monkeypatch: pytest.MonkeyPatch, clock: Time, said: list[str]) -> None:
    with api_of(monkeypatch, said, httpx.Response(200, text="<html>")) as api, pytest.raises(HeadraceError, match="is the URL right"):
        api.get("/v1/models")

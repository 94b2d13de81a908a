"""The engine `openai` against an upstream that fails in every way an upstream fails."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.capabilities import CAPABILITIES
from headrace.errors import SettingsError
from headrace.state import Fault
from headrace.testing.tiny_model import make_model
from tests.engine_bench import PATIENCE_S, Answer, Reference, Subject, ask, collect, greedy, opened, settings_for
from tests.upstream_stub import EOS, PROMPT, Call, Stub, answer, stubbing
from workers.backends import upstream_source
from workers.backends.build import build_engine
from workers.ports import EngineRequest, FinishReason

KEY = "sk-do-not-tell"
N = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_model(folder, [f"w{i}" for i in range(EOS)] + ["?"], context=256)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": EOS}))
    return folder


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubbing() as stub:
        yield stub


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_source, "PAUSE_S", 0.01)


@contextmanager
def asking(stub: Stub, folder: Path, **settings: object) -> Iterator[Subject]:
    with opened(build_engine(settings_for("openai", folder, upstream_url=stub.url, upstream_key=KEY, **settings))) as engine:
        stub.forget()
        yield Subject(engine, CAPABILITIES["openai"], EOS, Reference(PROMPT))


@pytest.fixture
def subject(stub: Stub, folder: Path) -> Iterator[Subject]:
    with asking(stub, folder) as subject:
        yield subject


def request(request_id: str = "a", **fields: object) -> EngineRequest:
    return ask(request_id, PROMPT, greedy(N, ignore_eos=True), **fields)


def check_whole(got: Answer) -> None:
    assert got.ids == answer(0, N)
    assert got.finish is FinishReason.LENGTH


def cut_after(count: int) -> Callable[[Call], None]:
    def act(call: Call) -> None:
        call.begin()
        call.tokens(answer(call.start, call.start + count))
        call.close()

    return act


def saying(*data: object) -> Callable[[Call], None]:
    def act(call: Call) -> None:
        call.begin()
        for one in data:
            call.send(one)
        call.close()

    return act


def refusing(code: int, body: object = "no", **headers: str) -> Callable[[Call], None]:
    return lambda call: call.status(code, body, **headers)


def test_a_connection_lost_in_mid_answer_goes_on_behind_the_tokens_that_came(subject: Subject, stub: Stub) -> None:
    stub.script += [cut_after(5), cut_after(0), cut_after(4)]
    check_whole(subject.answer(request()))
    assert [call.start for call in stub.calls] == [0, 5, 5, 9]
    assert stub.calls[-1].body["prompt"] == [*PROMPT, *answer(0, 9)]
    assert [call.body["max_tokens"] for call in stub.calls] == [N, N - 5, N - 5, N - 9]
    assert len({call.body["seed"] for call in stub.calls}) == 3, "what is drawn behind 5 tokens is not what was drawn before them"


def test_a_request_resumes_behind_what_an_earlier_worker_committed(subject: Subject, stub: Stub) -> None:
    got = subject.answer(request(committed_ids=tuple(answer(0, 7))))
    assert got.ids == answer(7, N)
    assert stub.calls[0].start == 7


def test_an_upstream_that_is_busy_is_waited_for(subject: Subject, stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    codes = (429, 503, 502, 504, 401, 404)
    stub.script += [refusing(code, {"error": {"message": "later"}}, retry_after="0") for code in codes]
    with caplog.at_level(logging.INFO):
        check_whole(subject.answer(request()))
    assert len(stub.calls) == len(codes) + 1
    assert sum("does not take requests" in line for line in caplog.messages) == 1, "an outage is said once"
    assert sum("takes requests again" in line for line in caplog.messages) == 1
    assert KEY not in caplog.text


def test_an_upstream_that_is_away_is_waited_for(folder: Path) -> None:
    with stubbing() as stub, asking(stub, folder) as subject:
        port = stub.server.server_port
        stub.server.shutdown()
        stub.server.server_close()
        subject.engine.add(request())
        for _ in range(20):
            assert subject.engine.step(0.02) == []
        later = Stub(port)
        with stubbing(later):
            answers = {"a": Answer()}
            for deltas in subject.steps():
                collect(answers, deltas)
        check_whole(answers["a"])


def test_an_upstream_that_is_not_there_yet_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with stubbing() as stub:
        port = stub.server.server_port
    with asking(stub, folder) as subject:
        assert "does not take requests: no connection" in caplog.text
        subject.engine.add(request())
        with stubbing(Stub(port)):
            answers = {"a": Answer()}
            for deltas in subject.steps():
                collect(answers, deltas)
        check_whole(answers["a"])


def test_an_upstream_that_turns_out_to_tell_no_ids_ends_the_process(folder: Path) -> None:
    with stubbing() as stub:
        port = stub.server.server_port
    with asking(stub, folder) as subject:
        subject.engine.add(request())
        later = Stub(port)
        later.otherwise = refusing(200, {"choices": [CHOICE]})
        with stubbing(later), pytest.raises(SettingsError, match="it must tell token ids"):
            subject.step_until(lambda _: False)


def test_what_the_upstream_refuses_fails_alone_and_says_why(subject: Subject, stub: Stub) -> None:
    stub.script.append(refusing(400, {"error": {"message": "this prompt is no good"}}))
    refused = subject.answer(request("refused"))
    assert refused.end is not None
    assert (refused.finish, refused.end.fault) == (FinishReason.ERROR, None)
    assert refused.end.error == "the upstream refuses the request: 400: this prompt is no good"
    check_whole(subject.answer(request()))


CHOICE: dict[str, Any] = {"text": "x", "finish_reason": None}

NONSENSE = {
    "a fault of its own": refusing(500, b"<html>oops</html>"),
    "an error in the stream": saying({"error": {"message": "out of luck", "code": 500}}),
    "no JSON": saying(b"{"),
    "no object": saying([1]),
    "no choices": saying({"id": "1"}),
    "choices of another kind": saying({"choices": ["x"]}),
    "ids of another kind": saying({"choices": [CHOICE | {"token_ids": ["1"]}]}),
    "an end without an answer": saying(b"[DONE]"),
    "an unknown end": saying({"choices": [CHOICE | {"text": "", "finish_reason": "content_filter"}]}),
    "not HTTP": lambda call: (call.http.wfile.write(b"what?\r\n\r\n"), call.close())[1],
}


@pytest.mark.parametrize("what", NONSENSE)
def test_after_three_times_without_a_token_it_is_the_request(subject: Subject, stub: Stub, what: str) -> None:
    stub.script += [NONSENSE[what]] * 3
    failed = subject.answer(request("failed"))
    assert failed.end is not None
    assert (failed.finish, failed.end.fault) == (FinishReason.ERROR, Fault.ENGINE_ERROR)
    assert "lost the answer behind 0 tokens" in failed.end.error
    assert len(stub.calls) == 3
    check_whole(subject.answer(request()))


def test_an_id_outside_the_vocabulary_fails_alone(subject: Subject, stub: Stub) -> None:
    stub.script.append(saying({"choices": [CHOICE | {"token_ids": [1, 64]}]}))
    failed = subject.answer(request())
    assert failed.end is not None
    assert (failed.ids, failed.finish, failed.end.fault) == ([1], FinishReason.ERROR, Fault.ENGINE_ERROR)


def test_tokens_forgive_failures(subject: Subject, stub: Stub) -> None:
    stub.script += [cut_after(1)] * 7
    check_whole(subject.answer(request()))
    assert len(stub.calls) == 8


def test_an_end_of_text_token_that_is_kept_back_is_among_the_ids_all_the_same(subject: Subject, stub: Stub) -> None:
    def act(call: Call) -> None:
        call.begin()
        call.tokens(answer(0, 3))
        call.finish("stop")

    stub.script += [act, act]
    got = subject.answer(ask("a", PROMPT, greedy(N)))
    assert got.ids == [*answer(0, 3), EOS]
    assert got.finish is FinishReason.STOP
    ignoring = subject.answer(request())
    assert ignoring.end is not None
    assert "ended the answer with 'stop' after 3 of 12 tokens" in ignoring.end.error


def test_an_answer_that_the_upstream_cuts_short_is_no_answer(subject: Subject, stub: Stub) -> None:
    def act(call: Call) -> None:
        call.begin()
        call.tokens(answer(0, 3))
        call.finish("length")

    stub.script.append(act)
    got = subject.answer(request())
    assert got.end is not None
    assert "ended the answer with 'length' after 3 of 12 tokens" in got.end.error


def silent(call: Call) -> None:
    """After two tokens, until the other side hangs up."""
    call.begin()
    call.tokens(answer(call.start, call.start + 2))
    call.http.rfile.read(1)
    call.gone.set()


def test_an_abort_hangs_up(subject: Subject, stub: Stub) -> None:
    stub.script.append(silent)
    subject.engine.add(request())
    subject.step_until(bool)
    subject.engine.abort("a")
    assert stub.calls[0].gone.wait(PATIENCE_S)


def test_an_upstream_that_does_not_stop_is_hung_up_on(subject: Subject, stub: Stub) -> None:
    def endless(call: Call) -> None:
        call.begin()
        place = call.start
        while not call.gone.is_set():
            call.tokens(answer(place, place + 1))
            place += 1

    stub.script.append(endless)
    check_whole(subject.answer(request()))
    assert stub.calls[0].gone.wait(PATIENCE_S)


def test_silence_is_a_loss(folder: Path, stub: Stub) -> None:
    with asking(stub, folder, upstream_silence_s=0.2) as subject:
        stub.script.append(silent)
        check_whole(subject.answer(request()))
        assert [call.start for call in stub.calls] == [0, 2]


def verbose(call: Call, token_ids: list[int], total: int, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [CHOICE | {"finish_reason": finish}], "__verbose": {"tokens": token_ids, "tokens_predicted": total}}


def like_llama_cpp(call: Call) -> None:
    """Every third token of a stream is told nothing of but that it came."""
    if not call.body.get("return_tokens"):
        call.status(200, {"choices": [CHOICE]})
        return
    tokens = answer(call.start, call.start + call.body["max_tokens"])
    if not call.body["stream"]:
        call.status(200, verbose(call, tokens, len(tokens), "length"))
        return
    call.begin()
    for count, token in enumerate(tokens, start=1):
        if (call.start + count) % 3:
            call.send(verbose(call, [token], count))
    call.send(verbose(call, [], len(tokens), "length"))


def test_ids_that_a_stream_leaves_out_are_fetched(folder: Path, stub: Stub) -> None:
    stub.otherwise = like_llama_cpp
    with asking(stub, folder) as subject:
        long = ask("a", PROMPT, greedy(40, ignore_eos=True))
        got = subject.answer(long)
    assert got.ids == answer(0, 40)
    assert {call.body["stream"] for call in stub.calls} == {True, False}
    assert "repeat_penalty" in stub.calls[0].body


def test_an_upstream_that_tells_no_ids_is_refused_at_the_start(folder: Path, stub: Stub) -> None:
    stub.otherwise = refusing(200, {"choices": [CHOICE]})
    with (
        pytest.raises(SettingsError, match=r"it must tell token ids \(return_token_ids: .*; llama.cpp: it tells none\)"),
        asking(stub, folder),
    ):
        pass


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_wrong_key_or_model_is_refused_at_the_start(folder: Path, stub: Stub, code: int) -> None:
    stub.otherwise = refusing(code, {"error": {"message": "who are you?"}})
    with pytest.raises(SettingsError, match="who are you") as caught, asking(stub, folder):
        pass
    assert KEY not in str(caught.value)


def test_the_key_goes_to_the_upstream_and_nowhere_else(subject: Subject, stub: Stub, folder: Path) -> None:
    subject.answer(request())
    assert stub.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(settings_for("openai", folder, upstream_key=KEY))


def test_without_a_place_there_is_no_engine(folder: Path) -> None:
    for url in (None, "localhost:8080"):
        with pytest.raises(SettingsError, match="HEADRACE_UPSTREAM_URL"):
            build_engine(settings_for("openai", folder, upstream_url=url))

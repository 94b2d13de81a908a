"""Log-probabilities and echoes in OpenAI's shapes."""

from typing import Any

import pytest

from headrace.cursor import LogPosition
from headrace.job import LogEntry
from headrace.logprobs import Logprobs
from headrace.request import Endpoint, Request
from headrace.testing.builders import make_request
from headrace.testing.words import WordPrompter
from headrace.tokenizer import Token
from headrace.wire.answers import whole_answer
from headrace.wire.prompter import Prompter
from headrace.wire.spelling import Spelling

POSITION = LogPosition(1, 1)
PIECES = {
    5: Token("Hi", b"Hi", False),
    6: Token("é", "é".encode(), False),
    7: Token(r"\xf0\x9f", b"\xf0\x9f", False),
    8: Token(r"\xa5\x96", b"\xa5\x96", False),
    9: Token(" there", b" there", False),
}


class Pieces(WordPrompter):
    def spell(self, token_id: int) -> Token:
        return PIECES.get(token_id, Token("<|end|>", b"<|end|>", hidden=True))

    def decode(self, token_ids: object) -> str:
        return "Hi there"


def no_model(name: str) -> Prompter:
    raise AssertionError(f"{name} is not needed")


def entry(ids: tuple[int, ...], text: str, *logprobs: Logprobs, choice: int = 0, prompt: tuple[Logprobs, ...] = ()) -> LogEntry:
    return LogEntry(position=POSITION, token_ids=ids, text=text, logprobs=logprobs, choice=choice, prompt_logprobs=prompt)


def completion(**fields: Any) -> Request:
    return make_request(endpoint=Endpoint.COMPLETIONS, prompt_ids=(5, 9), **fields)


def test_an_answer_of_text_alone_needs_no_model() -> None:
    assert Spelling.of(make_request(n=2), no_model) is None


def test_chat() -> None:
    spelling = Spelling(make_request(logprobs=2), Pieces())
    told = spelling.logprobs(entry((5, 7), "Hi", Logprobs(-0.5, ((5, -0.5), (9, -1.0))), Logprobs(-2.0, ((8, -0.25),))))
    assert told == {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.5,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                    {"token": " there", "logprob": -1.0, "bytes": list(b" there")},
                ],
            },
            {
                "token": "\\xf0\\x9f",
                "logprob": -2.0,
                "bytes": [0xF0, 0x9F],
                "top_logprobs": [{"token": "\\xa5\\x96", "logprob": -0.25, "bytes": [0xA5, 0x96]}],
            },
        ],
        "refusal": None,
    }


def test_a_completions_tokens_have_their_places_in_the_text() -> None:
    spelling = Spelling(completion(logprobs=1), Pieces())
    first = spelling.logprobs(entry((5,), "Hi", Logprobs(-0.5, ((5, -0.5),))))
    held = spelling.logprobs(entry((7,), "", Logprobs(-1.0, ((9, -0.25),))))
    shown = spelling.logprobs(entry((8, 6, 0), "🥖é", Logprobs(-2.0), Logprobs(-3.0), Logprobs(-4.0)))
    assert first == {"tokens": ["Hi"], "token_logprobs": [-0.5], "top_logprobs": [{"Hi": -0.5}], "text_offset": [0]}
    assert held is not None
    assert (held["text_offset"], held["top_logprobs"]) == ([2], [{" there": -0.25, "\\xf0\\x9f": -1.0}])
    assert shown is not None
    assert shown["tokens"] == ["\\xa5\\x96", "é", "<|end|>"]
    assert shown["text_offset"][0] == 2


def test_choices_are_counted_apart() -> None:
    spelling = Spelling(completion(logprobs=0, n=2), Pieces())
    for choice in (0, 1):
        told = spelling.logprobs(entry((5,), "Hi", Logprobs(-0.5), choice=choice))
        assert told is not None
        assert told["text_offset"] == [0]


def test_an_echo_comes_before_the_answer_and_its_first_token_has_no_logprob() -> None:
    request = completion(logprobs=1, prompt_logprobs=True, echo=True)
    log = [
        entry((6,), "é", Logprobs(-0.5, ((6, -0.5),)), prompt=(Logprobs(-3.0, ((5, -0.1),)),)),
        entry((5,), "Hi", Logprobs(-0.25, ((5, -0.25),))),
    ]
    end = LogEntry(position=LogPosition(1, 3), reason="length")
    [choice] = whole_answer(request, [*log, end], Spelling(request, Pieces()))["choices"]
    assert choice["text"] == "Hi thereéHi"
    assert choice["logprobs"] == {
        "tokens": ["Hi", " there", "é", "Hi"],
        "token_logprobs": [None, -3.0, -0.5, -0.25],
        "top_logprobs": [None, {"Hi": -0.1, " there": -3.0}, {"é": -0.5}, {"Hi": -0.25}],
        "text_offset": [0, 2, 8, 9],
    }


@pytest.mark.parametrize("n", [1, 2])
def test_an_echo_without_logprobs_is_text_alone(n: int) -> None:
    request = completion(echo=True, n=n)
    log = [entry((6,), "é", choice=choice) for choice in range(n)]
    end = LogEntry(position=LogPosition(1, 3), reason=",".join(["stop"] * n))
    choices = whole_answer(request, [*log, end], Spelling.of(request, lambda _: Pieces()))["choices"]
    assert [(choice["index"], choice["text"], choice["logprobs"]) for choice in choices] == [(i, "Hi thereé", None) for i in range(n)]

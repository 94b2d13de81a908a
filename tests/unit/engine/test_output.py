"""What the client sees of a run, and that a resumed run shows exactly the rest."""

from typing import Any

import pytest

from headrace.request import Sampling
from headrace.tokenizer import Tokenizer
from workers.engine.output import Output, Shown, end_ids_of
from workers.ports import FinishReason

EOS = 256


def make(tokenizer: Tokenizer, *, max_tokens: int = 100, **fields: Any) -> Output:
    sampling = Sampling(max_tokens=max_tokens, seed=0, **fields)
    return Output(sampling, tokenizer, end_ids_of(sampling, {EOS}))


def feed(output: Output, ids: list[int]) -> list[Shown]:
    shown = []
    for token in ids:
        shown.append(output.add(token))
        if shown[-1].finish:
            break
    return shown


def test_the_last_token_by_count_brings_all_that_was_held(bytes_tokenizer: Tokenizer) -> None:
    ids = bytes_tokenizer.encode("ab EN🥖")
    shown = feed(make(bytes_tokenizer, max_tokens=6, stop=("END",)), ids)
    assert [s.text for s in shown] == ["a", "b", " ", "", "", "EN\ufffd"]
    assert shown[-1].finish is FinishReason.LENGTH


def test_end_of_text_flushes_and_adds_nothing(bytes_tokenizer: Tokenizer) -> None:
    shown = feed(make(bytes_tokenizer, stop=("END",)), [*bytes_tokenizer.encode("aEN"), EOS])
    assert shown[-1] == Shown("EN", FinishReason.STOP)


def test_end_of_text_can_be_ignored(bytes_tokenizer: Tokenizer) -> None:
    a, b = bytes_tokenizer.encode("ab")
    shown = feed(make(bytes_tokenizer, max_tokens=3, ignore_eos=True), [a, EOS, b])
    assert shown == [Shown("a", None), Shown("", None), Shown("b", FinishReason.LENGTH)]


def test_a_stop_token_ends_it_unseen_beside_or_instead_of_end_of_text(bytes_tokenizer: Tokenizer) -> None:
    a, b, c = bytes_tokenizer.encode("abc")
    shown = feed(make(bytes_tokenizer, stop_token_ids=(c, b)), [a, b, c])
    assert shown == [Shown("a", None), Shown("", FinishReason.STOP)]
    assert feed(make(bytes_tokenizer, stop_token_ids=(c,)), [a, EOS])[-1] == Shown("", FinishReason.STOP)
    ignoring = feed(make(bytes_tokenizer, stop_token_ids=(c,), ignore_eos=True), [EOS, a, c])
    assert [one.finish for one in ignoring] == [None, None, FinishReason.STOP]


def test_a_stop_string_ends_the_text_before_it(bytes_tokenizer: Tokenizer) -> None:
    shown = feed(make(bytes_tokenizer, stop=("END",)), bytes_tokenizer.encode("a END b"))
    assert "".join(s.text for s in shown) == "a "
    assert shown[-1].finish is FinishReason.STOP
    assert len(shown) == 5


def test_a_stop_string_in_what_is_flushed_counts(bytes_tokenizer: Tokenizer) -> None:
    ids = bytes_tokenizer.encode("a🥖")[:3]
    shown = feed(make(bytes_tokenizer, max_tokens=3, stop=("\ufffd",)), ids)
    assert shown[-1] == Shown("", FinishReason.STOP)


@pytest.mark.parametrize("stop", [(), ("👩‍🍳 good", "STOP"), ("never",)])
def test_resumed_at_any_token_the_rest_is_the_rest(bytes_tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    ids = [*bytes_tokenizer.encode("Bread 🥖🥐 is 👩‍🍳 goo, good ST STOP after"), EOS]
    whole = feed(make(bytes_tokenizer, stop=stop), ids)
    assert whole[-1].finish
    for cut in range(len(whole)):
        resumed = make(bytes_tokenizer, stop=stop)
        feed(resumed, ids[:cut])
        assert feed(resumed, ids[cut:]) == whole[cut:]

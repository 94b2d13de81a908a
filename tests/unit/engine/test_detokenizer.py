import random

import pytest

from headrace.tokenizer import Tokenizer
from workers.engine.detokenizer import Detokenizer

TEXTS = [
    "plain text, with  two spaces and a line\nbreak",
    "emoji 🥖 with a joiner 👩‍👩‍👧 and flags 🇫🇷!",
    "CJK 日本語 and accents é e\u0301, null \0, line separator \u2028",
    "a real \ufffd replacement character \ufffd\ufffd",
    "",
]


@pytest.fixture(params=["bytes_tokenizer", "pieces_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def feed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(token) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(feed(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_appears_whole_with_its_last_token(bytes_tokenizer: Tokenizer) -> None:
    assert feed(bytes_tokenizer, bytes_tokenizer.encode("a🥖b")) == ["a", "", "", "", "🥖", "b", ""]


def test_an_incomplete_character_at_the_end_is_shown_as_such(bytes_tokenizer: Tokenizer) -> None:
    assert feed(bytes_tokenizer, bytes_tokenizer.encode("a🥖")[:-1]) == ["a", "", "", "", "\ufffd"]


def test_special_tokens_add_no_text_and_break_none(tokenizer: Tokenizer) -> None:
    (special,) = tokenizer.special_ids
    ids = tokenizer.encode("one two 🥖")
    mixed = [token for pair in zip(ids, [special] * len(ids), strict=True) for token in pair]
    assert "".join(feed(tokenizer, mixed)) == tokenizer.decode(ids)
    assert feed(tokenizer, [special, special]) == ["", "", ""]


def test_endless_broken_bytes_are_shown_after_a_while_and_text_after_them_is_whole(bytes_tokenizer: Tokenizer) -> None:
    lead = bytes_tokenizer.encode("é")[0]  # the first of two bytes, over and over
    pieces = feed(bytes_tokenizer, [lead] * 100 + bytes_tokenizer.encode("then text é"))
    assert max(len(piece) for piece in pieces) <= 32
    assert "".join(pieces).lstrip("\ufffd") == "then text é"
    assert "".join(pieces).count("\ufffd") == 100


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_give_their_decoding(bytes_tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(256) for _ in range(60)]
    assert "".join(feed(bytes_tokenizer, ids)) == bytes_tokenizer.decode(ids)


def test_the_cost_of_a_token_does_not_grow(bytes_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    decode = bytes_tokenizer.decode

    def watched(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(ids)

    monkeypatch.setattr(bytes_tokenizer, "decode", watched)
    feed(bytes_tokenizer, bytes_tokenizer.encode("a long text with 🥖 in it, again and again. " * 200))
    assert longest <= 8

"""Tokens by themselves: in turn they are the bytes of their text."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.tokenizer import Tokenizer
from tests.unit.engine.conftest import SPECIAL

RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@RELAXED
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_bytes_as_characters(bytes_tokenizer: Tokenizer, text: str) -> None:
    tokens = [bytes_tokenizer.spell(token) for token in bytes_tokenizer.encode(text)]
    assert b"".join(token.data for token in tokens) == text.encode()
    assert not any(token.hidden for token in tokens)


def test_parts_of_a_character_are_named_by_their_bytes(bytes_tokenizer: Tokenizer) -> None:
    names = [bytes_tokenizer.spell(token).name for token in bytes_tokenizer.encode("aé")]
    assert names == ["a", r"\xc3", r"\xa9"]


@RELAXED
@given(text=st.text("abc ,é🥖", min_size=1, max_size=20))
def test_pieces_with_a_byte_fallback(pieces_tokenizer: Tokenizer, text: str) -> None:
    spelled = b"".join(pieces_tokenizer.spell(token).data for token in pieces_tokenizer.encode(text))
    assert spelled.decode() == (text if text.startswith(" ") else " " + text)


def test_special_tokens_and_none(bytes_tokenizer: Tokenizer, pieces_tokenizer: Tokenizer) -> None:
    for tokenizer in (bytes_tokenizer, pieces_tokenizer):
        [special] = tokenizer.special_ids
        assert tokenizer.spell(special) == (SPECIAL, SPECIAL.encode(), True)
        assert tokenizer.spell(special + 1) == ("", b"", True)

"""Text to token ids and back. Torch-free, and safe against special tokens forged in text: see docs/decisions/002."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from headrace.errors import InvalidRequest, ModelUnavailable, TokenizerFailed

_TRIES = 8
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Token(NamedTuple):
    """One entry of a vocabulary."""

    name: str
    """Its text; of one that is not whole characters the bytes, as \\xf0\\x9f."""
    data: bytes
    """UTF-8, perhaps only a part of a character."""
    hidden: bool
    """A special token: `decode` leaves it out."""


class Tokenizer:
    """A model's tokenizer.json. Methods may run in any thread."""

    def __init__(self, file: Path) -> None:
        """Raises ModelUnavailable if `file` cannot be read."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library has no narrower class for a missing or malformed file
            raise ModelUnavailable(f"cannot read tokenizer {file}: {error}") from error
        # Special tokens found in text are text. Where a template means one, `encode_marked` puts its id directly.
        self._tokenizer.encode_special_tokens = True
        self._special = {t.content: i for i, t in self._tokenizer.get_added_tokens_decoder().items() if t.special}
        self._special_ids = frozenset(self._special.values())
        # Longest first: where one special token begins with another, the longer one is meant, as in the library itself.
        longest_first = sorted(self._special, key=len, reverse=True)
        self._any_special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._spelled: dict[int, Token] = {}
        self._added = self._tokenizer.get_added_tokens_decoder().keys()
        self._decoders = frozenset(_decoders(self._tokenizer))

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special_ids

    def mark_specials(self, text: str, marker: str) -> str:
        """`text` with `marker` inside every literal that reads like a special token, so that none does any more."""
        return self._any_special.sub(lambda match: match[0][0] + marker + match[0][1:], text)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with what the model wants around any text (a beginning-of-text token, say). No text yields a special token.

        Raises InvalidRequest if `text` is not Unicode (a lone surrogate).
        """
        return self._encode(text, add_special_tokens=True)

    def encode_marked(self, text: str, marker: str) -> list[int]:
        """Ids of a rendered template: special-token literals become special tokens, except those that hold `marker`."""
        ids: list[int] = []
        start = 0
        for match in self._any_special.finditer(text):
            ids += self._encode(text[start : match.start()].replace(marker, ""), add_special_tokens=False)
            ids.append(self._special[match[0]])
            start = match.end()
        return ids + self._encode(text[start:].replace(marker, ""), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens. An incomplete character at either end reads as U+FFFD. Raises TokenizerFailed."""
        try:
            return self._tokenizer.decode(ids, skip_special_tokens=True)
        except Exception as error:  # the library has no narrower class
            raise TokenizerFailed(f"the tokenizer cannot decode token ids {list(ids)}: {error}") from error

    def spell(self, token_id: int) -> Token:
        """One token by itself; the tokens of a text in turn are its bytes. Empty for an id that names none: vocabularies are padded."""
        # Kept, as many as there are in the vocabulary at most: an answer with alternatives spells tens of thousands.
        if token_id not in self._spelled:
            piece = self._tokenizer.id_to_token(token_id)
            data = b"" if piece is None else self._bytes_of(token_id, piece)
            self._spelled[token_id] = Token(_name(data), data, piece is None or token_id in self._special_ids)
        return self._spelled[token_id]

    def _bytes_of(self, token_id: int, piece: str) -> bytes:
        if token_id in self._added:
            return piece.encode()
        if "ByteLevel" in self._decoders:
            return b"".join(_BYTES[char] if char in _BYTES else char.encode() for char in piece)
        if "ByteFallback" in self._decoders and (byte := _BYTE_PIECE.fullmatch(piece)):
            return bytes.fromhex(byte[1])
        if self._decoders & {"Metaspace", "Replace"}:
            return piece.replace("\u2581", " ").encode()
        return self.decode([token_id]).encode()

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            # The batch call gives the interpreter to other threads meanwhile, the single one does not.
            [encoding] = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError):
            raise InvalidRequest("The text holds a lone surrogate (\\ud800 to \\udfff), which is not Unicode text.") from None
        return encoding.ids


def _name(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def _decoders(tokenizer: tokenizers.Tokenizer) -> Iterator[str]:
    """Types of all steps of its decoder."""
    if tokenizer.decoder is not None:
        steps: list[dict[str, Any]] = [json.loads(tokenizer.decoder.__getstate__())]
        for step in steps:
            yield step["type"]
            steps += step.get("decoders", ())


def _byte_alphabet() -> dict[str, bytes]:
    """The characters that byte-level vocabularies write bytes as (Radford et al., GPT-2, 2019).

    A printable byte stands for itself, the others are code points from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {chr(byte if byte in printable else next(others)): bytes([byte]) for byte in range(0x100)}


_BYTES = _byte_alphabet()


def unused_marker(texts: Sequence[str]) -> str:
    """A private-use character that none of `texts` holds. Raises InvalidRequest if they hold all of a plane."""
    candidates = map(chr, range(0xF0000, 0xFFFFE))
    # Nearly always the first will do, and a search for it is the quickest; a text that holds them all would be searched for each.
    for char in islice(candidates, _TRIES):
        if not any(char in text for text in texts):
            return char
    used = set().union(*texts)
    unused = next((char for char in candidates if char not in used), None)
    if unused is None:
        raise InvalidRequest("The text holds every private-use character from U+F0000 to U+FFFFD; one must be left.")
    return unused

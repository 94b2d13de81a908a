"""A tokenizer for tests of everything around the model: a word is a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from headrace.capabilities import CAPABILITIES, Capabilities
from headrace.tokenizer import Token

TURN_START, TURN_END = 1, 2
_FIRST_WORD = 3


@dataclass(frozen=True, slots=True)
class WordPrompter:
    """Turns messages and texts into ids as the API's prompter of a real model does."""

    context_length: int = 4_096
    vocab_size: int = 1_000
    can: Capabilities = CAPABILITIES["paged"]

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        turns = [(TURN_START, *self.text(message["role"]), *self.text(message["content"]), TURN_END) for message in messages]
        return (*(token for turn in turns for token in turn), TURN_START)

    def longest_chat(self, messages: Sequence[Mapping[str, str]]) -> int:
        return sum(len(message["role"]) + len(message["content"]) + 2 for message in messages) + 1

    def text(self, prompt: str) -> tuple[int, ...]:
        words = self.vocab_size - _FIRST_WORD
        return tuple(_FIRST_WORD + crc32(word.encode()) % words for word in prompt.split())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Hashes cannot be undone: words of its own."""
        return "".join(self.spell(token).data.decode() for token in token_ids if token >= _FIRST_WORD)

    def spell(self, token_id: int) -> Token:
        return Token(f" w{token_id}", f" w{token_id}".encode(), token_id < _FIRST_WORD)

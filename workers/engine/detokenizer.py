"""Text from token ids as they come, one by one. Torch-free."""

from collections.abc import Sequence, Set
from typing import Protocol

_REPLACEMENT = "\ufffd"
_LONGEST_HOLD = 32


class Decoder(Protocol):
    """What of a tokenizer turns ids into text: see `headrace.tokenizer.Tokenizer`."""

    @property
    def special_ids(self) -> Set[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Detokenizer:
    """Turns ids into text so that the pieces together are the text of all ids.

    A character may be spread over several tokens, so text is held back while its end decodes to U+FFFD. Each step decodes a window of a
    few ids: those just shown, whose neighbourhood decides on white space in some tokenizers, and those held back. A model that goes on
    and on with bytes that are no text is shown as U+FFFD after 32 tokens, which bounds the window.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        # The window is [0, _shown) ids whose text is out, then ids held back.
        self._shown = 0
        self._shown_text = ""

    def add(self, token_id: int) -> str:
        """The text that has become certain. A special token adds none."""
        if token_id in self._tokenizer.special_ids:
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        held = len(self._window) - self._shown
        if text.endswith(_REPLACEMENT) and held < _LONGEST_HOLD:
            return ""
        return self._show(text)

    def flush(self) -> str:
        """What is still held back, complete or not. No id may follow."""
        return self._show(self._tokenizer.decode(self._window))

    def _show(self, text: str) -> str:
        new = text[len(self._shown_text) :]
        if text.endswith(_REPLACEMENT):
            # Shown although its last character is broken: what follows must not be read together with it.
            self._window, self._shown, self._shown_text = [], 0, ""
            return new
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        self._shown_text = self._tokenizer.decode(self._window)
        return new

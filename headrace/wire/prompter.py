"""What turning a caller's input into prompt token ids, and tokens into words, takes of one model. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from headrace.capabilities import AUTO, Capabilities, capabilities_of
from headrace.chat_template import ChatTemplate
from headrace.model_folder import ModelFolder, locate
from headrace.tokenizer import Token, Tokenizer


class Prompter(Protocol):
    """Methods are pure, may take a second for megabytes of text, and may run in any thread."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def can(self) -> Capabilities:
        """What the engine that serves the model can do."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Prompt ids of a conversation of {role, content}, up to the start of the answer. Raises InvalidRequest if the model's template
        refuses it."""
        ...

    def longest_chat(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Bytes of the rendered conversation, which its tokens do not outnumber. Raises InvalidRequest as `chat`."""
        ...

    def text(self, prompt: str) -> tuple[int, ...]:
        """Token ids of plain text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Their text, without special tokens."""
        ...

    def spell(self, token_id: int) -> Token:
        """One token by itself."""
        ...


Prompters = Callable[[str], Prompter]
"""The prompter of a model by its name. Raises ModelNotFound, ModelUnavailable."""


class FolderPrompter:
    """The Prompter of a model folder."""

    def __init__(self, folder: ModelFolder, can: Capabilities) -> None:
        """Raises ModelUnavailable."""
        self._folder = folder
        self._can = can
        self._tokenizer = Tokenizer(folder.tokenizer_file)
        self._template = ChatTemplate(folder, self._tokenizer)

    @classmethod
    def load(cls, model: str, cache_dir: Path, max_context: int | None = None, *, engine: str = AUTO) -> "FolderPrompter":
        """Read the folder of `settings.model`; `engine` as in the settings. Raises ModelUnavailable while it is not there."""
        return cls(ModelFolder.read(locate(model, cache_dir), max_context=max_context), capabilities_of(engine))

    @property
    def context_length(self) -> int:
        return self._folder.context_length

    @property
    def vocab_size(self) -> int:
        return self._folder.vocab_size

    @property
    def can(self) -> Capabilities:
        return self._can

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return tuple(self._template.encode(messages))

    def longest_chat(self, messages: Sequence[Mapping[str, str]]) -> int:
        return len(self._template.render(messages).text.encode())

    def text(self, prompt: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(prompt))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids)

    def spell(self, token_id: int) -> Token:
        return self._tokenizer.spell(token_id)

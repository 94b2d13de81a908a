"""The served models as the API knows them: names, limits, and how to turn a caller's input into prompt token ids.

The tokenizer comes from the model's folder, which a worker may still be making when the API starts: the catalog tries again until it is
there. Until then the API runs, says so at /ready, and refuses work for the model.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from headrace.chat_template import ChatTemplate
from headrace.errors import ModelNotFound, ModelUnavailable
from headrace.model_folder import ModelFolder, locate
from headrace.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_LONGEST_RETRY_S = 15.0


class Prompter(Protocol):
    """What admission needs of one model. Methods are pure, may take a second for megabytes of text, and may run in any thread."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def vocab_size(self) -> int: ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Prompt ids of a conversation of {role, content}, up to the start of the answer. Raises InvalidRequest if the model's template
        refuses it."""
        ...

    def text(self, prompt: str) -> tuple[int, ...]:
        """Token ids of plain text."""
        ...


class FolderPrompter:
    """The Prompter of a model folder."""

    def __init__(self, folder: ModelFolder) -> None:
        """Raises ModelUnavailable."""
        self._folder = folder
        self._tokenizer = Tokenizer(folder.tokenizer_file)
        self._template = ChatTemplate(folder, self._tokenizer)

    @classmethod
    def load(cls, model: str, cache_dir: Path, max_context: int | None = None) -> "FolderPrompter":
        """Read the folder of `settings.model`. Raises ModelUnavailable while it is not there."""
        return cls(ModelFolder.read(locate(model, cache_dir), max_context=max_context))

    @property
    def context_length(self) -> int:
        return self._folder.context_length

    @property
    def vocab_size(self) -> int:
        return self._folder.vocab_size

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return tuple(self._template.encode(messages))

    def text(self, prompt: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(prompt))


class Catalog:
    """The models this API serves, each loaded or not yet."""

    def __init__(self, loaders: Mapping[str, Callable[[], Prompter]]) -> None:
        """`loaders` by model name; a loader may block, and raises ModelUnavailable while the model is not there."""
        self._loaders = dict(loaders)
        self._loaded: dict[str, Prompter] = {}
        self._why: dict[str, str] = dict.fromkeys(loaders, "not loaded yet")

    @property
    def names(self) -> list[str]:
        return list(self._loaders)

    @property
    def loaded(self) -> list[str]:
        return [name for name in self._loaders if name in self._loaded]

    @property
    def missing(self) -> dict[str, str]:
        """Models that are not loaded, and why."""
        return dict(self._why)

    def get(self, name: str) -> Prompter:
        """Raises ModelNotFound for a name we do not serve, ModelUnavailable for one that is not loaded yet."""
        if name not in self._loaders:
            raise ModelNotFound(f"The model '{name[:200]}' does not exist or is not served here.", param="model")
        if name not in self._loaded:
            raise ModelUnavailable(f"The model '{name}' is not loaded yet.")
        return self._loaded[name]

    async def load(self) -> None:
        """Load every model, however long it takes to appear. Loading runs off the event loop."""
        delay = _RETRY_S
        while not await self._load_missing():
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, _LONGEST_RETRY_S)

    async def _load_missing(self) -> bool:
        for name, why in list(self._why.items()):
            try:
                prompter = await asyncio.to_thread(self._loaders[name])
            except ModelUnavailable as error:
                if str(error) != why:
                    logger.warning("model not there yet model=%s why=%s", name, error)
                self._why[name] = str(error)
            except Exception as error:
                logger.exception("model cannot be loaded model=%s", name)
                self._why[name] = f"loading failed ({type(error).__name__}); the log has the reason"
            else:
                self._loaded[name] = prompter
                del self._why[name]
                logger.info("model loaded model=%s context=%d", name, prompter.context_length)
        return not self._why

"""The served models as the API knows them.

The tokenizer comes from the model's folder, which a worker may still be making when the API starts: the catalog tries again until it is
there. Until then the API runs, says so at /ready, and refuses work for the model.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from headrace.errors import ModelNotFound, ModelUnavailable
from headrace.wire.prompter import Prompter

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_LONGEST_RETRY_S = 15.0


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
            raise ModelNotFound.among(name, self.names)
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

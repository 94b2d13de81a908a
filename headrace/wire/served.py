"""The prompter of the model that is served, for processes that have one."""

from functools import lru_cache, partial

from headrace.errors import ModelNotFound
from headrace.settings import Settings
from headrace.wire.prompter import FolderPrompter, Prompter, Prompters


def served_prompters(settings: Settings) -> Prompters:
    """Loads it at the first use; while it is not there, every use tries again."""
    load = lru_cache(maxsize=1)(
        partial(FolderPrompter.load, settings.model, settings.cache_dir, settings.max_context, engine=settings.engine)
    )

    def prompter(model: str) -> Prompter:
        if model != settings.served_model:
            raise ModelNotFound.among(model, [settings.served_model])
        return load()

    return prompter

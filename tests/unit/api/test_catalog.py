import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from headrace.errors import ModelNotFound, ModelUnavailable
from headrace.testing.virtual_time import run_virtual
from headrace.testing.words import WordPrompter
from headrace.wire.prompter import FolderPrompter, Prompter
from producer_api.catalog import Catalog


class Appearing:
    """A loader that fails until its third call."""

    def __init__(self, error: Exception) -> None:
        self.calls = 0
        self._error = error

    def __call__(self) -> Prompter:
        self.calls += 1
        if self.calls < 3:
            raise self._error
        return WordPrompter()


@pytest.mark.parametrize("error", [ModelUnavailable("no folder yet"), ZeroDivisionError()])
def test_a_model_is_tried_until_it_is_there(error: Exception) -> None:
    loader = Appearing(error)
    catalog = Catalog({"m": loader})
    assert catalog.loaded == []
    assert catalog.missing == {"m": "not loaded yet"}
    with pytest.raises(ModelUnavailable):
        catalog.get("m")
    run_virtual(catalog.load)
    assert loader.calls == 3
    assert (catalog.loaded, catalog.missing) == (["m"], {})
    assert catalog.get("m").context_length == WordPrompter().context_length


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="'other' does not exist; this server serves 'm'"):
        Catalog({"m": WordPrompter}).get("other")


def test_a_model_folder_makes_prompts(tmp_path: Path) -> None:
    vocabulary = {"<s>": 0, "user": 1, ":": 2, "hi": 3, "you": 4, "?": 5}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "vocab_size": 6}))
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}")
    prompter = FolderPrompter.load(str(tmp_path), tmp_path / "cache")
    assert (prompter.context_length, prompter.vocab_size) == (64, 6)
    assert prompter.text("hi you") == (3, 4)
    assert prompter.chat([{"role": "user", "content": "hi"}]) == (0, 1, 2, 3)


def test_a_missing_folder_is_no_model_yet(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable):
        FolderPrompter.load(str(tmp_path / "nothing"), tmp_path)

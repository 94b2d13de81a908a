"""The least that the API needs of a model: a tokenizer of a few words, its limits and a chat template."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

UNKNOWN = "?"
"""Must be one of the words."""


def make_model(folder: Path, words: Sequence[str] = ("user", "hi", UNKNOWN), context: int = 64) -> None:
    """A word's id is its place."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": context, "vocab_size": len(words)}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))

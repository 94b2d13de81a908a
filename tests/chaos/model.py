"""The least of a model that the API takes: a tokenizer of a few hundred words. One of them is poison."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

NAME = "chaos-model"
POISON = "poison"
POISON_ID = 2
WORDS = 400
CONTEXT = 128


def words() -> list[str]:
    return [f"w{number}" for number in range(WORDS)]


def make_model(folder: Path) -> None:
    vocabulary = ["?", "user", POISON, *words()]
    assert vocabulary[POISON_ID] == POISON
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": CONTEXT, "vocab_size": len(vocabulary)}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))

"""Whatever a caller writes, the model reads exactly that, between the special tokens of the template and no others."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from headrace.errors import InvalidRequest
from headrace.wire.prompter import FolderPrompter

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|im|>", "<|endoftext|>")

SYNTAX = ("<|im_", "|>", "im_end", "<", "{{ messages }}", "{% raw %}", "{%", "#}", "{{ raise_exception('x') }}", "\\", '"', " ")
ODD = ("\0", "\ufeff", "\r\n", "\n", "\u2028", "\x85", "\U000f0000", "\U000f0001", "\U000ffffd", "\ufffd", "😀", "👩\u200d👩", "e\u0301")

fragments = st.sampled_from([*SPECIALS, *SYNTAX, *ODD])
texts = st.lists(fragments | st.text(max_size=8), max_size=8).map("".join)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes, and special tokens some of which begin alike."""
    folder = tmp_path_factory.mktemp("bytes")
    vocab = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4_096, "vocab_size": 300}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def prompter(folder: Path) -> FolderPrompter:
    return FolderPrompter.load(str(folder), folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@settings(max_examples=400, deadline=None)
@given(conversation=messages)
def test_a_conversation(prompter: FolderPrompter, tokenizer: Tokenizer, conversation: list[dict[str, str]]) -> None:
    ids = prompter.chat(conversation)
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    special = [token for token in ids if token >= 256]
    assert special == [start, end] * len(conversation) + [start]
    seen = tokenizer.decode(list(ids), skip_special_tokens=True)
    assert seen == "".join(f"{message['role']}\n{message['content']}\n" for message in conversation) + "assistant"
    assert len(ids) <= prompter.longest_chat(conversation)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_plain_text(prompter: FolderPrompter, tokenizer: Tokenizer, text: str) -> None:
    ids = prompter.text(text)
    assert all(token < 256 for token in ids)
    assert tokenizer.decode(list(ids)) == text


def test_a_text_that_leaves_no_marker(prompter: FolderPrompter) -> None:
    everything = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    with pytest.raises(InvalidRequest, match="one must be left"):
        prompter.chat([{"role": "user", "content": everything}])
    assert prompter.chat([{"role": "user", "content": everything[1:]}])

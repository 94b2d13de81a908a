"""Two small tokenizers of the kinds there are: bytes as characters, and pieces with a byte fallback."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from headrace.tokenizer import Tokenizer

SPECIAL = "<|end|>"


def _save(tokenizer: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    tokenizer.add_special_tokens([SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json")


@pytest.fixture
def bytes_tokenizer(tmp_path: Path) -> Tokenizer:
    """One token for each byte, as GPT-2 and Llama 3 have them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _save(tokenizer, tmp_path)


@pytest.fixture
def pieces_tokenizer(tmp_path: Path) -> Tokenizer:
    """Pieces that begin with ▁ for a space, other bytes as <0xNN>, as Llama 2 has them."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz.,!"]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    return _save(tokenizer, tmp_path)

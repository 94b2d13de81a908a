"""Seeds for engines that count their draws from where they began, not from where the answer begins."""

import hashlib

SEED_BITS = 31
"""What every engine takes."""


def seed_from(seed: int, choice: int, position: int) -> int:
    """Of the draws behind `position` tokens of an answer: a resumed run must not draw again what the earlier one drew."""
    digest = hashlib.blake2b(f"{seed} {choice} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> (64 - SEED_BITS)

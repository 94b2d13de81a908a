"""Log-probabilities of one token, as engines tell them and the token log keeps them."""

from typing import NamedTuple


class Logprobs(NamedTuple):
    """Natural logarithms, of the model's own distribution: before temperature, penalties and whatever else a request asks for."""

    chosen: float
    """Of the token itself."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at its place, likeliest first, as (id, logprob)."""

"""A model's text on standard output, piece by piece.

Past rich: a Ctrl-C between its write and the end of its bookkeeping has it write the same piece again, and it takes `:name:` for an emoji.
"""

import sys

from rich.control import strip_control_codes


def print_piece(text: str) -> None:
    """At once, and as it is but for control codes that move the cursor or ring."""
    sys.stdout.write(strip_control_codes(text))
    sys.stdout.flush()

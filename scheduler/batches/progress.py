"""How far a batch is, as its journal has it."""

from dataclasses import replace

from headrace.batch import Progress
from headrace.files.journal import Tally


def counted(progress: Progress, tally: Tally) -> Progress:
    return replace(
        progress,
        completed=tally.completed,
        failed=tally.failed,
        input_tokens=tally.input_tokens,
        output_tokens=tally.output_tokens,
    )

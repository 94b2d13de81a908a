"""A whole answer, however much there is to say in it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from headrace.job import LogEntry
from headrace.request import Request
from headrace.wire.answers import whole_answer
from headrace.wire.prompter import Prompters
from headrace.wire.spelling import Spelling


async def render_answer(request: Request, log: Sequence[LogEntry], prompters: Prompters) -> dict[str, Any]:
    """`whole_answer`. Raises ModelNotFound or ModelUnavailable where only the model can spell its tokens."""
    spelling = Spelling.of(request, prompters)
    if spelling is None:
        return whole_answer(request, log, None)
    # Alternatives may be a hundred thousand: every stream would stall meanwhile.
    return await asyncio.to_thread(whole_answer, request, log, spelling)

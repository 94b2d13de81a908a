import asyncio
import io

from rich.console import Console

from headrace.cli.waiting_note import WaitingNote
from headrace.testing.eventually import eventually

WIDTH = 30


def console(*, terminal: bool = True) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=terminal, width=WIDTH, _environ={"TERM": "xterm"}), written


async def drawn(written: io.StringIO, words: str) -> None:
    async def there() -> bool:
        return words in written.getvalue()

    await eventually(there)


async def test_it_says_what_is_waited_for_until_something_comes() -> None:
    screen, written = console()
    with WaitingNote(screen, quiet_s=0.0) as note:
        await drawn(written, "waiting for the server")
        note.waits_for("the server: status 503 and much more of it")
        await drawn(written, "waiting for the server: status 503"[: WIDTH - 1])
    assert written.getvalue().endswith("\x1b8\x1b[J"), "the last one is erased, from where the text stopped"
    assert "and much more" not in written.getvalue(), "a line that wraps would scroll the text away"


async def test_what_comes_in_time_draws_nothing() -> None:
    screen, written = console()
    with WaitingNote(screen, quiet_s=3_600.0) as note:
        note.waits_for("the next token")
        note.heard()
    assert written.getvalue() == ""


async def test_it_is_for_terminals() -> None:
    screen, written = console(terminal=False)
    with WaitingNote(screen, quiet_s=0.0) as note:
        note.waits_for("the next token")
        await asyncio.sleep(0)
        note.heard()
    assert written.getvalue() == ""

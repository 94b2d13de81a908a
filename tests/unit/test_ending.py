import signal

import pytest

from headrace.supervise import ending


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (78, "exit code 78"), (-signal.SIGKILL, "SIGKILL"), (-signal.SIGSEGV, "SIGSEGV"), (-60, "signal 60")],
)
def test_how_a_process_ended(code: int, words: str) -> None:
    assert ending(code) == words

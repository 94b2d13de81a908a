"""How the end of a job that is no answer is told."""

import pytest

from headrace.state import Fault, State, failure
from headrace.wire.outcomes import ended_error


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_the_code_and_its_text_the_message(fault: Fault) -> None:
    error = ended_error(State.FAILED, failure(fault, "a step: it broke"))
    assert error["code"] == fault
    assert error["message"] == "The request could not be run: a step: it broke."
    assert error["type"] == "server_error"


@pytest.mark.parametrize("reason", ["the prompt is empty", "not a fault: the prompt is empty", ""])
def test_other_failures_keep_the_general_code(reason: str) -> None:
    error = ended_error(State.FAILED, reason)
    assert error["code"] == "generation_failed"
    assert reason in str(error["message"])

from pathlib import Path
from typing import Any

import pytest

from headrace.capabilities import CAPABILITIES, capabilities_of
from headrace.errors import InvalidRequest
from headrace.request import Endpoint, Sampling
from headrace.settings import Settings
from headrace.testing.words import WordPrompter
from headrace.wire.draft import check_fits, draft, read_fields

LACKING = [(engine, field) for engine, can in CAPABILITIES.items() for field in sorted(can.lacks)]

ASKING: dict[str, dict[str, Any]] = {
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": -0.5},
    "min_tokens": {"min_tokens": 2},
    "logprobs": {"logprobs": 0},
    "prompt_logprobs": {"logprobs": 1, "echo": True},
}


def body(**fields: Any) -> Any:
    return read_fields({"model": "m", "prompt": "one two", "max_tokens": 4, **fields}, Endpoint.COMPLETIONS)


def test_every_engine_of_the_settings_is_in_the_table() -> None:
    choices = Settings.model_json_schema()["properties"]["engine"]["enum"]
    assert {capabilities_of(choice).engine for choice in choices} == CAPABILITIES.keys()
    assert capabilities_of("auto") is CAPABILITIES["paged"]


def test_what_an_engine_lacks_are_fields_of_a_request() -> None:
    assert {field for _, field in LACKING} <= Sampling.model_fields.keys()


@pytest.mark.parametrize(("engine", "field"), LACKING)
def test_a_request_for_what_the_engine_lacks_is_refused_before_its_prompt_is_counted(engine: str, field: str) -> None:
    def prompters(_: str) -> WordPrompter:
        return WordPrompter(can=CAPABILITIES[engine])

    for check in (lambda: draft(body(**ASKING[field]), prompters, 0), lambda: check_fits(body(**ASKING[field]), prompters)):
        with pytest.raises(InvalidRequest, match=f"is not supported by the engine '{engine}'") as caught:
            check()
        assert caught.value.param in CAPABILITIES[engine].lacks
        assert caught.value.code == "unsupported_parameter"


def test_neutral_values_ask_for_nothing() -> None:
    for can in CAPABILITIES.values():
        sampling = body(presence_penalty=0, frequency_penalty=0.0, n=1, logit_bias={}).sampling(max_tokens=4, seed=0)
        assert can.unsupported(sampling) is None


def test_the_documented_table_says_no_where_the_code_does() -> None:
    """Column by column; a row's fields all have the same answer."""
    rows = [line.strip("|").split("|") for line in Path("docs/engines.md").read_text().splitlines() if line.startswith("|")]
    head = next(row for row in rows if row[0].strip() == "" and "`paged`" in row[1])
    columns = {cell.strip().strip("`"): place for place, cell in enumerate(head) if place}
    assert columns.keys() == CAPABILITIES.keys()
    said = {
        field: row
        for row in rows
        for field in ("presence_penalty", "frequency_penalty", "min_tokens", "logprobs")
        if f"`{field}`" in row[0]
    }
    said["prompt_logprobs"] = next(row for row in rows if "(`echo`)" in row[0])
    for field, row in said.items():
        for engine, place in columns.items():
            assert (row[place].strip() == "no") == (field in CAPABILITIES[engine].lacks), (engine, field)

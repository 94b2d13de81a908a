import re
from pathlib import Path

import pytest

from headrace import capabilities
from headrace.architectures import PAGED, paged_architecture
from headrace.capabilities import runs_paged
from headrace.errors import ModelUnavailable
from workers.engine.models.registry import ARCHITECTURES

FILE = Path("model/config.json")


def test_the_engine_runs_what_is_promised_and_the_documentation_shows_it() -> None:
    assert tuple(ARCHITECTURES) == PAGED
    rows = re.findall(r"^\| `(\w+ForCausalLM)` \|", Path("docs/models.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(PAGED)


@pytest.mark.parametrize("named", [["MixtralForCausalLM"], [], None, "LlamaForCausalLM", [["LlamaForCausalLM"]]])
def test_any_other_is_refused_by_name_with_a_way_out(named: object) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        paged_architecture({"architectures": named}, FILE)
    assert str(caught.value).startswith(f"{FILE}: architecture ")
    assert all(one in str(caught.value) for one in (*PAGED, "HEADRACE_ENGINE=transformers"))


def test_the_first_one_counts() -> None:
    assert paged_architecture({"architectures": ["Qwen3ForCausalLM", "Other"]}, FILE) == "Qwen3ForCausalLM"


@pytest.mark.parametrize(
    ("engine", "vllm", "paged"),
    [("paged", True, True), ("auto", False, True), ("auto", True, False), ("transformers", False, False), ("scripted", False, False)],
)
def test_only_where_no_other_engine_could_be_meant(engine: str, vllm: bool, paged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "has_vllm", lambda: vllm)
    assert runs_paged(engine) == paged

"""The engine `openai` in front of a real server whose processes are killed in the middle of an answer."""

from pathlib import Path

import pytest

from headrace.testing.tree import ENGINE, running_tree
from tests.engine_bench import MODEL_NAME, Answer, Reference, ask, collect, greedy, make_checkpoint, modelled

LENGTH = 200


@pytest.mark.parametrize("victim", [("producer_api",), ENGINE])
def test_an_answer_goes_on_when_the_upstream_is_killed(tmp_path: Path, victim: tuple[str, ...]) -> None:
    """Its API: the connection breaks and the rest is asked for anew. Its engine: the upstream resumes by itself, and nobody notices."""
    checkpoint = tmp_path / "checkpoint"
    make_checkpoint(checkpoint)
    environ = {"HEADRACE_MODEL": str(checkpoint), "HEADRACE_MODEL_NAME": MODEL_NAME, "HEADRACE_KV_MEMORY_MB": "1"}
    request = ask("a", sampling=greedy(LENGTH, ignore_eos=True))
    with (
        running_tree(tmp_path / "data", environ) as tree,
        modelled("openai", checkpoint, Reference(()), upstream_url=f"{tree.url}/v1") as subject,
    ):
        unbroken = subject.answer(request)
        answers = {"a": Answer()}
        subject.engine.add(request)
        collect(answers, subject.step_until(bool))
        tree.kill(*victim)
        assert len(answers["a"].ids) < LENGTH, "it was too late to break anything"
        for deltas in subject.steps():
            collect(answers, deltas)
    assert answers["a"] == unbroken
    assert answers["a"].finish is unbroken.finish

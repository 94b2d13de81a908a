import pytest

from workers.backends.build import choose_engine


@pytest.mark.parametrize(
    ("setting", "vllm", "cuda", "engine"),
    [
        ("auto", True, True, "vllm"),
        ("auto", True, False, "paged"),
        ("auto", False, True, "paged"),
        ("paged", True, True, "paged"),
        ("vllm", False, False, "vllm"),
    ],
)
def test_auto_is_vllm_where_it_and_a_gpu_are_found(setting: str, vllm: bool, cuda: bool, engine: str) -> None:
    assert choose_engine(setting, vllm=vllm, cuda=lambda: cuda) == engine


def test_torch_is_not_imported_to_learn_what_does_not_matter() -> None:
    def never() -> bool:
        raise AssertionError("asked for CUDA")

    assert choose_engine("auto", vllm=False, cuda=never) == "paged"

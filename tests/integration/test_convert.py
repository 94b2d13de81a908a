"""Conversion into the cache. (That the converted model is right is what the engine's tests on the demo model show.)"""

from pathlib import Path

import pytest

from headrace.errors import ModelUnavailable
from headrace.model_folder import ModelFolder, locate
from workers import convert
from workers.convert import ensure_folder


def test_the_demo_model_is_a_whole_folder_without_leftovers(demo_model: Path) -> None:
    folder = ModelFolder.read(demo_model)
    assert folder.eos_ids == frozenset({2})
    assert (folder.bos_token, folder.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert folder.chat_template is not None
    assert (demo_model / "model.safetensors").is_file()


def test_a_folder_needs_no_conversion(demo_model: Path, tmp_path: Path) -> None:
    assert ensure_folder(str(demo_model), tmp_path) == demo_model
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_model_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a model" * 100)
    with pytest.raises(ModelUnavailable, match=r"cannot convert .*broken\.gguf"):
        ensure_folder(str(file), tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_of_two_converters_that_race_both_get_the_first_ones_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x")
    place = locate(str(file), tmp_path)

    def slower_than_another(source: Path, target: Path) -> None:
        place.mkdir()
        (place / "config.json").write_text("the first one's")
        (target / "config.json").write_text("the second one's")

    monkeypatch.setattr(convert, "_convert", slower_than_another)
    assert ensure_folder(str(file), tmp_path) == place
    assert (place / "config.json").read_text() == "the first one's"
    assert list(place.parent.iterdir()) == [place]

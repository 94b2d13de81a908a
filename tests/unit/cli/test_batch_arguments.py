"""What cannot work is said in one line, before anything is begun."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app

RUNNER = CliRunner()
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_API_URL", raising=False)
    (tmp_path / "in.txt").write_text("a prompt\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.txt", "-o", "out"), "cannot read the input missing.txt (No such file or directory)"),
        (("folder", "-o", "out"), "the input folder is a folder"),
        (("empty.txt", "-o", "out"), "the input is empty"),
        (("in.txt", "-o", "folder"), "the output folder is a folder; name a file in it"),
        (("in.txt", "-o", "nowhere/out"), "there is no folder nowhere for the output"),
        (("in.txt", "-o", "/proc/out"), "cannot write beside /proc/out"),
        (("in.txt", "-o", "in.txt"), "the output would overwrite the input in.txt"),
        (("in.txt", "-o", "./folder/../in.txt"), "the output would overwrite the input in.txt"),
        (("in.txt", "-o", "/dev/null"), "the output /dev/null is no ordinary file"),
        (("in.txt", "-o", "-"), "the output must be a file"),
        (("in.txt", "-o", "out", "--url", "127.0.0.1:8000"), "write http://127.0.0.1:8000"),
        (("in.txt", "-o", "out", "--url", "http://a:b"), "'http://a:b' is no URL: Invalid port"),
        (("in.txt", "-o", "out", "--url", NOWHERE, "--data-dir", "data"), "--data-dir is for a server of its own"),
    ],
)
def test_one_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    before = sorted(path.name for path in folder.iterdir())
    told = RUNNER.invoke(app, ["batch", "run", *arguments])
    assert (told.exit_code, told.stdout) == (1, "")
    [line] = told.stderr.splitlines()
    assert line.startswith("headrace: ")
    assert words in line
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("option", "value"), [("--max-tokens", "0"), ("--max-tokens", "-3"), ("--temperature", "2.1"), ("--endpoint", "/v1/embeddings")]
)
def test_an_option_out_of_range_is_named(option: str, value: str) -> None:
    told = RUNNER.invoke(app, ["batch", "run", "in.txt", "-o", "out", option, value])
    assert (told.exit_code, option in told.stderr) == (2, True)


def test_an_input_beside_its_errors_is_not_overwritten(folder: Path) -> None:
    (folder / "out.errors.txt").write_text("a prompt\n")
    told = RUNNER.invoke(app, ["batch", "run", "out.errors.txt", "-o", "out.txt"])
    assert (told.exit_code, "the output would overwrite the input out.errors.txt" in told.stderr) == (1, True)


def test_the_exit_codes_are_documented() -> None:
    told = " ".join(RUNNER.invoke(app, ["batch", "run", "--help"]).stdout.split())
    assert "Exit codes: 0 all lines answered · 1 the batch or the server failed · 3 some lines failed" in told

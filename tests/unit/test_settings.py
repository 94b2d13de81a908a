from pathlib import Path

import pytest

from headrace.cli.settings_table import settings_list, settings_table
from headrace.errors import SettingsError
from headrace.settings import Settings, load_settings


def test_defaults_need_no_environment() -> None:
    assert load_settings().port == 8000


def test_an_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PROT", "1")
    with pytest.raises(SettingsError, match=r"HEADRACE_PROT \(did you mean HEADRACE_PORT\?\); `headrace settings` lists them all"):
        load_settings()


def test_a_malformed_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PORT", "hunter2")
    monkeypatch.setenv("HEADRACE_SHARDS", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "HEADRACE_PORT" in str(caught.value)
    assert "HEADRACE_SHARDS" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_of_a_malformed_boolean_the_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PREFIX_CACHE", "maybe")
    with pytest.raises(SettingsError, match=r"^HEADRACE_PREFIX_CACHE: Input should be true or false$"):
        load_settings()


@pytest.mark.parametrize(
    ("model", "name"), [("/models/Tiny-1B/", "Tiny-1B"), ("a/b.Q4.gguf", "b.Q4"), ("smollm2-135m-instruct", "smollm2-135m-instruct")]
)
def test_a_model_is_served_under_its_own_name(monkeypatch: pytest.MonkeyPatch, model: str, name: str) -> None:
    monkeypatch.setenv("HEADRACE_MODEL", model)
    assert load_settings().served_model == name


def test_the_documented_table_is_the_real_one() -> None:
    assert settings_table() in Path("docs/settings.md").read_text()


def test_a_terminal_shows_every_setting_within_its_width() -> None:
    shown = settings_list(80)
    assert [line for line in shown.splitlines() if not line.startswith(" ") and line] == [
        f"HEADRACE_{name.upper()}" for name in Settings.model_fields
    ]
    assert max(map(len, shown.splitlines())) <= 80
    assert "`true`, `false`; default `true`. Whether requests of one tenant" in " ".join(shown.split())
    assert "see docs/kafka.md" in shown

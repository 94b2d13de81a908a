"""What a rolling restart rolls into."""

from pathlib import Path

import pytest

from tests.chaos.versions import LIBRARY, ROOT, NoHistory, older_version, shared_text, this_version

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these files are in no repository")


def test_the_older_code_has_other_functions_or_records(tmp_path: Path) -> None:
    ours = shared_text(this_version(tmp_path / "this").tree)
    theirs = shared_text(older_version(tmp_path / "older", None).tree)
    assert ours.keys() >= {Path("headrace/request.py"), LIBRARY}
    theirs[LIBRARY] = theirs[LIBRARY].rpartition("-- as of")[0]
    assert ours != theirs


def test_without_a_commit_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoHistory, match="no-such-commit"):
        older_version(tmp_path, "no-such-commit")

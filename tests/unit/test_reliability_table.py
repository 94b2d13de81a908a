"""docs/reliability.md names every fault once, and no test that is not there."""

import ast
import re
from pathlib import Path

TABLE = Path("docs/reliability.md").read_text()
FAULTS = 63


def defined_in(path: Path) -> set[str]:
    """Names of its tests as pytest writes them, and the file itself."""
    found = {""}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = {member.name for member in node.body if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)}
            found |= {f"::{node.name}::{name}" for name in members}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(f"::{node.name}")
    return found


def test_every_fault_has_its_row() -> None:
    numbers: list[int] = []
    for first, last in re.findall(r"^\| (\d+)(?:–(\d+))? \|", TABLE, re.MULTILINE):
        numbers += range(int(first), int(last or first) + 1)
    assert sorted(numbers) == list(range(1, FAULTS + 1))


def test_every_test_it_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)((?:::\w+)*)`", TABLE)
    assert len(named) > 80
    missing = [path + name for path, name in named if not (file := Path("tests") / path).exists() or name not in defined_in(file)]
    assert missing == []

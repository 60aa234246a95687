"""First lines of docstrings: verb and object, or the noun an engineer would search for."""

import ast
import re
from pathlib import Path

import pytest

from liveavatar.paths import REPO_ROOT

# A docstring that begins so is a riddle or points elsewhere, instead of saying what the thing does.
BANNED = re.compile(
    r"(What|Whatever|Whoever|Whichever|Who|Those|Whether|How|Where|Which|When|Have|To be)\b|(As|See|Like) `"
)
ROOMS = sorted(
    {path.parent for package in ("flows", "tasks", "liveavatar") for path in (REPO_ROOT / package).rglob("*.py")}
)


def first_lines(path: Path) -> list[tuple[int, str]]:
    """Return line number and first line of every docstring in a file."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                lines.append((getattr(node, "lineno", 1), docstring.splitlines()[0]))
    return lines


@pytest.mark.parametrize("room", ROOMS, ids=[str(room.relative_to(REPO_ROOT)) for room in ROOMS])
def test_docstrings_begin_with_a_verb_or_a_noun(room: Path) -> None:
    found = [
        f"{path.relative_to(REPO_ROOT)}:{number}: {line}"
        for path in sorted(room.glob("*.py"))
        for number, line in first_lines(path)
        if BANNED.match(line)
    ]
    assert not found, "\n" + "\n".join(found)

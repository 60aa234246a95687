"""Rooms and their imports: `pyproject.toml` holds the floors, this file that no module circle exists."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from liveavatar.paths import REPO_ROOT

PACKAGES = ("flows", "tasks", "liveavatar")
TOP_MODULES = 8  # files directly in liveavatar/, at most; everything else is in a room
ROOMS = sorted(path.parent for package in PACKAGES for path in (REPO_ROOT / package).rglob("__init__.py"))


def name_of(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(REPO_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Map the dotted name of every module of the product to its file."""
    return {name_of(path): path for package in PACKAGES for path in (REPO_ROOT / package).rglob("*.py")}


def imports_of(name: str) -> set[str]:
    """Return the product modules a module imports, those imported inside functions included."""
    path, names = modules()[name], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: write the absolute name"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {sub if sub in modules() else str(node.module) for sub in submodules}
    return {imported for imported in names if imported in modules() and imported != name}


def test_no_module_circle() -> None:
    graph = {name: imports_of(name) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        pytest.fail(f"modules import one another: {circle}")


def test_contracts_are_kept() -> None:
    done = subprocess.run(
        ["lint-imports"], cwd=REPO_ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(REPO_ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_few_modules_lie_outside_the_rooms() -> None:
    outside = sorted(path.name for path in (REPO_ROOT / "liveavatar").glob("*.py") if path.name != "__init__.py")
    assert len(outside) <= TOP_MODULES, f"put a new file into a room: {outside}"


@pytest.mark.parametrize("room", ROOMS, ids=[str(room.relative_to(REPO_ROOT)) for room in ROOMS])
def test_a_room_says_what_it_owns_and_what_it_does_not_know(room: Path) -> None:
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert docstring, "a room's __init__ says what it owns"
    if room.parent == REPO_ROOT / "liveavatar":
        assert any(f"{word} " in docstring for word in ("Owns", "own")), "one sentence: what it owns"
        assert any(word in docstring for word in ("not know", "Knows no", "neither", "Runs no", "Nothing", "no ")), (
            "one sentence: what it does not know"
        )


def test_a_class_name_is_unique() -> None:
    places: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{name}:{node.lineno}")
    assert not {name: where for name, where in places.items() if len(where) > 1}

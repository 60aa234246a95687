"""The tree of tests: the same as the source's, self-contained, through public names."""

import ast
import re
from pathlib import Path

import pytest

from liveavatar.paths import REPO_ROOT

TESTS = REPO_ROOT / "tests"
FILES = sorted(path.relative_to(REPO_ROOT) for path in TESTS.rglob("test_*.py"))
SOURCES = sorted(
    path.relative_to(REPO_ROOT)
    for package in ("flows", "tasks", "liveavatar")
    for path in (REPO_ROOT / package).rglob("*.py")
)
# Tests of no single source file: rules of the house, machines, whole commands.
OF_NO_FILE = (
    *(
        "tests/test_house*.py",
        "tests/test_conftest.py",
        "tests/test_composition.py",
        "tests/test_docs.py",
        "tests/test_security.py",
        "tests/test_infra.py",
        "tests/soak/*",
        "tests/fuzz/*",
        "tests/odd_inputs/*",
        "tests/gpu/*",
    ),
    *(
        "tests/flows/test_flows.py",
        "tests/flows/test_golden.py",
        "tests/flows/test_notify.py",
        "tests/fast/test_ranks.py",
    ),
)
PRIVATE = re.compile(r"_[A-Za-z]\w*")


def place_of(source: Path) -> Path:
    """Return where the tests of a source file belong.

    `liveavatar/planning/memory.py` belongs to `tests/planning/test_memory.py`; the `__init__` of a package to the file
    of the package's name inside, its `__main__` to `test_main.py`.
    """
    parts = source.parts[1:] if source.parts[0] == "liveavatar" else source.parts
    name = source.parent.name if source.stem == "__init__" else source.stem.strip("_")
    return Path("tests", *parts[:-1], f"test_{name}.py")


PLACES = {place_of(source) for source in SOURCES}


def has_logic(source: Path) -> bool:
    """Tell whether a file has a function with more than a docstring."""
    tree = ast.parse((REPO_ROOT / source).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(not _is_stub(function) for function in functions)


def _is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in function.body)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_test_file_lies_where_its_source_lies(path: Path) -> None:
    if not any(path.match(pattern) for pattern in OF_NO_FILE):
        assert path in PLACES, "name it after the source file it holds"


def test_every_source_with_logic_has_its_test_file() -> None:
    without = [str(source) for source in SOURCES if has_logic(source) and place_of(source) not in FILES]
    assert not without, "give each its test file"


def private_uses(path: Path) -> list[str]:
    """List the private names of other modules and objects in a test file."""
    uses: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            uses.append(node.attr)
        elif isinstance(node, ast.ImportFrom):
            uses += [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            uses += [str(a.value).rpartition(".")[2] for a in node.args[:2] if isinstance(a, ast.Constant)]
    return [name for name in uses if PRIVATE.fullmatch(name)]


def test_tests_use_public_names() -> None:
    uses = {str(path.relative_to(REPO_ROOT)): private_uses(path) for path in sorted(TESTS.rglob("*.py"))}
    assert {path: names for path, names in uses.items() if names} == {}


def test_no_test_needs_files_outside_the_repository() -> None:
    outside = re.compile(r"""["']shared["']\s*/|\.\./shared|REPO_ROOT\.parent|ROOT\.parent""")
    found = [
        f"{path.relative_to(REPO_ROOT)}:{number}"
        for path in sorted(TESTS.rglob("*.py"))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if outside.search(line)
    ]
    assert not found

"""Pages name nothing that is not there: paths, links, commands, modules, rooms, methods."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.options import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "data").glob("*/README.md")),
    *sorted((ROOT / "data" / "models" / "mini").glob("*.md")),
    ROOT / "liveavatar" / "training" / "README.md",
    ROOT / "tests" / "parity" / "README.md",
]
# Folders of a render, of a training run, and of `make setup`.
MADE = ("out/", "live/", "audio/", "work/", "clips/", "refined/", ".venv/")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?![A-Z]+/)[\w.-]+(?:/[\w.*-]+)+/?|[\w-]+\.(?:py|md|toml|yaml)")  # WORK/model is a placeholder
COMMAND = re.compile(r"(?<!from )\bliveavatar ([a-z][a-z-]*)")
MODULE = re.compile(r"python -m ((?:[a-z_]+\.)*[a-z_]+)(?![\w.])")
IMPORT = re.compile(r"^from (liveavatar[\w.]*) import (.+)$", re.MULTILINE)
METHOD = re.compile(r"`([A-Z]\w+)\.(\w+)`")

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def _code(page: Path) -> Iterator[str]:
    """Fenced blocks and the code between backticks."""
    text = page.read_text()
    yield from FENCE.findall(text)
    yield from CODE.findall(FENCE.sub("", text))


def _paths(text: str) -> list[str]:
    return [code for code in CODE.findall(FENCE.sub("", text)) if PATH.fullmatch(code)]


def _exists(path: str, page: Path) -> bool:
    """Whether it is there: from the root, from the engine, beside the page; a bare file name anywhere in the engine."""
    if "/" not in path and any((ROOT / "liveavatar").rglob(path)):
        return True
    folders = (ROOT, ROOT / "liveavatar", ROOT / "liveavatar" / "training", page.parent)
    return any(any(folder.glob(path)) for folder in folders)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert not [target for target in targets if not (page.parent / target).exists()]


@each_page
def test_paths_exist(page: Path) -> None:
    assert not [path for path in _paths(page.read_text()) if not path.startswith(MADE) and not _exists(path, page)]


@each_page
def test_commands_exist(page: Path) -> None:
    assert {command for code in _code(page) for command in COMMAND.findall(code)} <= set(COMMANDS)


@each_page
def test_modules_can_be_run(page: Path) -> None:
    for module in {module for code in _code(page) for module in MODULE.findall(code)}:
        spec = importlib.util.find_spec(module)
        assert spec, module
        assert not spec.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__"), module


@each_page
def test_imported_names_exist(page: Path) -> None:
    for module, names in IMPORT.findall(page.read_text()):
        missing = [name for name in names.split(", ") if not hasattr(importlib.import_module(module), name)]
        assert not missing, f"{module} has no {missing}"


def _typed(page: Path) -> tuple[list[str], set[str]]:
    """What a page has readers type: fenced blocks without their comments, and commands between backticks."""
    text = page.read_text()
    blocks = [re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE) for block in FENCE.findall(text)]
    return blocks, {code for code in CODE.findall(FENCE.sub("", text)) if COMMAND.match(code)}


def test_the_chinese_readme_has_the_commands_and_links_of_the_readme() -> None:
    page, original = ROOT / "docs" / "README.zh-CN.md", ROOT / "README.md"
    assert _typed(page) == _typed(original)

    def targets(of: Path) -> set[Path]:
        return {(of.parent / link).resolve() for link in LINK.findall(of.read_text()) if "://" not in link}

    assert targets(page) ^ targets(original) == {page, original}, "each links to the other"
    headings = [re.findall(r"^#+ ", of.read_text(), re.MULTILINE) for of in (page, original)]
    assert headings[0] == headings[1]


def test_every_check_of_the_doctor_is_explained() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "flows" / "cli" / "doctor").glob("*.py")))
    named = re.findall(r'name=f?"([^"{]+)|name, place in zip\(\("([^"]+)", "([^"]+)"\)', source)
    checks = {name.strip() for names in named for name in names if name}
    assert len(checks) > 15
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert not {check for check in checks if f"`{check}" not in page}


def test_every_room_has_a_line() -> None:
    tree = FENCE.findall((ROOT / "ARCHITECTURE.md").read_text())[0]
    tops = re.split(r"^(\w+)/", tree, flags=re.MULTILINE)[1:]
    lines = dict(zip(tops[::2], tops[1::2], strict=True))
    for top in ("flows", "tasks", "liveavatar"):
        named = set(re.findall(r"^  (\w+)/", lines[top], re.MULTILINE))
        rooms = {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}
        assert rooms - {"tools", "bench_gpu"} == named, top  # those two only keep an old command alive
    modules = {path.name for path in (ROOT / "liveavatar").glob("*.py")} - {"__init__.py"}
    assert modules == set(re.findall(r"\w+\.py", lines["liveavatar"]))


def test_answers_name_methods_of_their_files() -> None:
    page = ROOT / "ARCHITECTURE.md"
    for line in page.read_text().splitlines():
        text = "".join(
            (ROOT / path).read_text() for path in _paths(line) if path.endswith(".py") and METHOD.search(line)
        )
        for name, method in METHOD.findall(line):
            assert not text or re.search(rf"^class {name}\b.*?^    def {method}\b", text, re.M | re.S), line

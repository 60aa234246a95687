"""Rules of the house that a machine can check."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from liveavatar import paths

ROOT = paths.REPO_ROOT
PACKAGES = ("flows", "tasks", "liveavatar")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_BYTES = 20_000  # of a source file; aim for a third of it
TOP_LEVEL = {
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile"),
    "pyproject.toml",
    *(
        "constraints.txt",
        "prefect.yaml",
        ".gitignore",
        ".ci",
        "flows",
        "tasks",
        "liveavatar",
        "infra",
        "data",
        "docs",
        "tests",
    ),
}
URL = re.compile(r"\b[a-z+]+://|@\s*(git|https?|file)\b", re.IGNORECASE)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", SOURCES, ids=_ids(SOURCES))
def test_source_file(path: Path) -> None:
    tree = _tree(path)
    package = path.relative_to(ROOT).parts[0]
    used = _imports(path)
    assert ast.get_docstring(tree) or not tree.body, "a module says what it owns"
    assert path.stat().st_size <= MAX_BYTES, "cut the file: it holds more than one idea"
    if package == "liveavatar":
        assert not used & {"prefect", "ray", "flows", "tasks"}, "the engine knows neither Prefect nor Ray"
    if package == "tasks":
        assert "flows" not in used, "imports go one way: flows, tasks, liveavatar"
    if "ray" in used:
        assert path.parent == ROOT / "tasks" / "cluster", "only tasks/cluster imports Ray"


# They read what the product brings, what it has just made for itself, or the files of Linux; training and the benches
# are started by hand in their own folders.
READ_DIRECTLY = (
    *("flows/batch_bench.py", "flows/cli/run.py", "flows/cli/doctor/installation.py", "flows/cli/doctor/machine.py"),
    *("flows/serving/deployments.py", "liveavatar/prompt/word_classes.py", "liveavatar/face/models.py"),
    *("liveavatar/quality/split.py", "liveavatar/report/page.py", "tasks/store/keys.py"),
    *("liveavatar/hardware.py", "liveavatar/engine/memory.py", "liveavatar/isolation/*.py", "tasks/store/machine.py"),
    *("tasks/cluster/guardian.py", "liveavatar/quality/limits.py"),
    *("liveavatar/bench/*", "liveavatar/bench/*/*", "liveavatar/training/*", "liveavatar/training/*/*"),
    *("liveavatar/training/*/*/*", "liveavatar/parity/*"),
)


def test_files_are_read_by_functions_that_wait_for_no_pipe() -> None:
    direct = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if not any(path.relative_to(ROOT).match(pattern) for pattern in READ_DIRECTLY)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("read_text", "read_bytes")
    ]
    assert not direct, "use `read_bytes`, `read_text` or `read_json` of liveavatar/files.py"


def test_top_level_is_what_the_guide_says() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, timeout=60, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


def test_dependencies_name_no_hosts() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    assert not URL.search(constraints)
    pinned = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!-]+", line) for line in pinned)
    assert "torch==2.13.0" in pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any(URL.search(line) for line in project["dependencies"])


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-") for line in wanted}
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert names <= pinned


def test_ci_runs_what_people_run() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^(?:exec )?(make .+)$", script, re.MULTILINE) == ["make test", "make regress"]
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "render", "test", "check", "serve", "bench"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


INSTALLED = ("pyproject.toml", "constraints.txt", "infra/bin/liveavatar", "infra/bin/noisereduce")


@pytest.mark.parametrize("changed", INSTALLED)
def test_setup_installs_again_what_has_changed(changed: str, tmp_path: Path) -> None:
    """An installed script is a copy: one of an older commit stayed after a pull."""
    for name in ("Makefile", *INSTALLED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1000, 1000))
    stamp = tmp_path / ".venv" / ".ready"
    stamp.parent.mkdir()
    stamp.touch()
    ask = ["make", "--question", "setup"]
    assert subprocess.run(ask, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / changed).touch()
    os.utime(stamp, (2000, 2000))
    assert subprocess.run(ask, cwd=tmp_path, capture_output=True).returncode == 1


def test_the_readme_knows_every_command() -> None:
    from flows.cli.options import COMMANDS

    readme = (ROOT / "README.md").read_text()
    assert not [name for name in COMMANDS if f"liveavatar {name}" not in readme]


def test_the_embedded_model_stays_small() -> None:
    if not paths.MINI_DIR.is_dir():
        pytest.skip("data/models/mini is not here yet")
    assert sum(path.stat().st_size for path in paths.MINI_DIR.rglob("*") if path.is_file()) <= 48e6
    assert (paths.MINI_DIR / "model_card.md").is_file()

"""The package as a library: public names, loaded on first use, with their types."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import liveavatar
from liveavatar.paths import REPO_ROOT


def test_public_names_are_there() -> None:
    for name in liveavatar.__all__:
        assert getattr(liveavatar, name) is not None


def test_the_package_alone_is_light() -> None:
    code = "import sys, liveavatar; assert 'torch' not in sys.modules; assert liveavatar.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'render_engine'"):
        liveavatar.render_engine  # noqa: B018 (the access is what is tested)


def test_types_are_found_where_the_package_is_installed() -> None:
    """A type checker looks for py.typed, and follows paths in site-packages but runs no import hooks."""
    tool = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["tool"]
    assert "py.typed" in tool["setuptools"]["package-data"]["liveavatar"]
    assert (REPO_ROOT / "liveavatar" / "py.typed").is_file()
    assert tool["distutils"]["editable_wheel"]["mode"] == "compat"


def test_the_example_of_the_readme_is_typed(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.+?)```", (REPO_ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    wrong = 'load_engine("mini", device=3)\nRenderSettings(seed=1)\nwrite_video(job, "video.mp4")\n'
    (tmp_path / "example.py").write_text(example[1] + wrong)
    command = [sys.executable, "-m", "mypy", "--no-site-packages", "--ignore-missing-imports", "--cache-dir=cache"]
    done = subprocess.run(
        [*command, "--follow-imports=silent", "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MYPYPATH": str(REPO_ROOT)},
    )  # fmt: skip
    errors = re.findall(r"^example.py:(\d+): error: .+\[(.+)\]$", done.stdout, re.MULTILINE)
    first = example[1].count("\n") + 1
    lines = [(str(first), "arg-type"), (str(first + 1), "call-arg"), (str(first + 2), "arg-type")]
    assert errors == lines, done.stdout

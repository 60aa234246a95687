"""The golden renders of the embedded model against their stored baselines, as `.ci/run` and `make regress` do."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flows.regression import GOLDEN
from liveavatar import paths


@pytest.mark.nightly
@pytest.mark.timeout(420)
def test_golden_renders(tmp_path: Path) -> None:
    if not (paths.MINI_DIR / "config.json").is_file():
        pytest.skip("data/models/mini is not here")
    names = sorted(p.stem for p in GOLDEN.glob("*.json") if p.name != "jobs.json")
    assert len(names) == 2, "two golden jobs have a baseline; `liveavatar regress --update` stores one"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "regress", "--junit", str(tmp_path / "junit.xml")],
        cwd=tmp_path,
        env={**kept, "LIVEAVATAR_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.get("failures") == "0"
    compared = {(case.get("classname"), case.get("name")) for case in suite.iter("testcase")}
    assert {(name, part) for name in names for part in ("latents", "verdict", "flicker")} <= compared

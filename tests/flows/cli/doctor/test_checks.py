"""The doctor: all checks of a machine, and what the command says of them."""

import json
from pathlib import Path

import pytest

from flows.cli.doctor.check import FAILED, OK, WARNING, DoctorCheck
from flows.cli.doctor.checks import exit_code, run_checks, to_json, to_lines


def test_a_whole_run(tmp_path: Path) -> None:
    checks = run_checks(tmp_path)
    assert {c.status for c in checks} <= {OK, WARNING, FAILED}
    assert all(c.way_out for c in checks if c.status != OK)
    assert {"python", "packages", "torch", "processor", "memory", "ffmpeg", "whisper weights", "gpu", "prefect"} <= {
        c.name for c in checks
    }
    assert [row["name"] for row in json.loads(to_json(checks))] == [c.name for c in checks]
    assert all(c.name in to_lines(checks) for c in checks)


def test_it_looks_where_videos_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.cli.doctor.checks.outputs", lambda: Path("elsewhere"))
    (found,) = (check for check in run_checks() if check.name == "output folder")
    assert found.detail.startswith(f"{tmp_path / 'elsewhere'}, ")


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        pytest.param((OK, OK), 0, id="healthy"),
        pytest.param((OK, WARNING), 0, id="slower"),
        pytest.param((WARNING, FAILED), 3, id="broken"),
    ],
)
def test_exit_code(statuses: tuple[str, ...], code: int) -> None:
    assert exit_code([DoctorCheck(name="x", status=s, detail="") for s in statuses]) == code

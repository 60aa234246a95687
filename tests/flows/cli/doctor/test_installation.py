"""The doctor: what is installed, and each thing that can be wrong with it."""

import errno
import os
from importlib import metadata
from pathlib import Path

import pytest

from flows.cli.doctor import installation
from flows.cli.doctor.check import FAILED, OK, WARNING
from liveavatar.media import ffmpeg
from tests.flows.cli.doctor.one import only


def test_a_full_disk_is_a_check_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the speech encoder are unpacked in the home; the other checks go on."""

    def unpack(name: str) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("liveavatar.audio.whisper_weights.checkpoint_path", unpack)
    check = only(installation.check_whisper())
    assert (check.status, check.way_out) == (FAILED, "free some space")
    assert "disk is full" in check.detail


@pytest.mark.parametrize(
    ("version", "status"),
    [
        pytest.param((3, 10, 1), FAILED, id="too old"),
        pytest.param((3, 12, 0), OK, id="promised"),
        pytest.param((3, 15, 0), WARNING, id="newer"),
    ],
)
def test_python(version: tuple[int, ...], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.sys, "version_info", version)
    assert only(installation.check_python()).status == status


@pytest.mark.parametrize(
    ("required", "status", "detail"),
    [
        pytest.param(["numpy>=2"], OK, "1 of 1", id="as required"),
        pytest.param(["no-such-package"], FAILED, "missing no-such-package", id="missing"),
        pytest.param(["numpy>=99"], WARNING, "unfit numpy", id="too old"),
        pytest.param(['no-such-package; python_version < "3"'], OK, "0 of 0", id="for another Python"),
    ],
)
def test_packages(required: list[str], status: str, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "requirements", lambda: required)
    check = only(installation.check_packages())
    assert check.status == status
    assert detail in check.detail


def test_a_rival_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "requirements", list)
    real = metadata.version
    monkeypatch.setattr(installation.metadata, "version", lambda name: "3.0" if name == "typed-ffmpeg" else real(name))
    assert [c.status for c in installation.check_packages()] == [OK, FAILED]


def test_requirements_are_the_project_s() -> None:
    assert any(r.startswith("torch==") for r in installation.requirements())


def test_ffmpeg_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: str(tmp_path / "nothing"))
    assert only(installation.check_ffmpeg()).status == FAILED


def test_a_model_that_is_damaged(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_MODELS", str(tmp_path))
    monkeypatch.setattr(installation, "MINI_DIR", tiny_model)
    assert next(installation.check_models()).status == OK
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    monkeypatch.setattr(installation, "MINI_DIR", broken)
    check = next(installation.check_models())
    assert check.status == FAILED
    assert "dit.safetensors" in check.detail

"""The doctor: what it reports about a healthy machine, and about each thing that can be wrong."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from flows.cli import doctor
from flows.cli.doctor import FAILED, OK, WARNING, DoctorCheck
from liveavatar.hardware import parse_gpus
from liveavatar.media import ffmpeg


def only(checks: Iterator[DoctorCheck]) -> DoctorCheck:
    (check,) = checks
    return check


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


def test_a_full_disk_is_a_check_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the speech encoder are unpacked in the home; the other checks go on."""

    def unpack(name: str) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("liveavatar.audio.whisper_weights.checkpoint_path", unpack)
    check = only(doctor.check_whisper())
    assert (check.status, check.way_out) == (FAILED, "free some space")
    assert "disk is full" in check.detail


def test_a_whole_run(tmp_path: Path) -> None:
    checks = doctor.run_checks(tmp_path)
    assert {c.status for c in checks} <= {OK, WARNING, FAILED}
    assert all(c.way_out for c in checks if c.status != OK)
    assert {"python", "packages", "torch", "processor", "memory", "ffmpeg", "whisper weights", "gpu", "prefect"} <= {
        c.name for c in checks
    }
    assert [row["name"] for row in json.loads(doctor.to_json(checks))] == [c.name for c in checks]
    assert all(c.name in doctor.to_lines(checks) for c in checks)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        pytest.param((OK, OK), 0, id="healthy"),
        pytest.param((OK, WARNING), 0, id="slower"),
        pytest.param((WARNING, FAILED), 3, id="broken"),
    ],
)
def test_exit_code(statuses: tuple[str, ...], code: int) -> None:
    assert doctor.exit_code([DoctorCheck(name="x", status=s, detail="") for s in statuses]) == code


@pytest.mark.parametrize(
    ("version", "status"),
    [
        pytest.param((3, 10, 1), FAILED, id="too old"),
        pytest.param((3, 12, 0), OK, id="promised"),
        pytest.param((3, 15, 0), WARNING, id="newer"),
    ],
)
def test_python(version: tuple[int, ...], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", version)
    assert only(doctor.check_python()).status == status


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
    monkeypatch.setattr(doctor, "requirements", lambda: required)
    check = only(doctor.check_packages())
    assert check.status == status
    assert detail in check.detail


def test_a_rival_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requirements", list)
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "3.0" if name == "typed-ffmpeg" else real(name))
    assert [c.status for c in doctor.check_packages()] == [OK, FAILED]


def test_requirements_are_the_project_s() -> None:
    assert any(r.startswith("torch==") for r in doctor.requirements())


@pytest.mark.parametrize(
    ("free", "status"),
    [pytest.param(0.5, FAILED, id="none"), pytest.param(2.0, WARNING, id="little"), pytest.param(9.0, OK, id="enough")],
)
def test_memory_and_disk(free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_gb", lambda: free)
    assert next(doctor.check_memory()).status == status
    disk = {0.5: 0.1, 2.0: 2.0, 9.0: 9.0}[free]
    monkeypatch.setattr(doctor, "free_disk_gb", lambda path: disk)
    assert {c.status for c in doctor.check_disk((tmp_path, tmp_path))} == {status}


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    checks = list(doctor.check_disk((file / "inside", tmp_path)))
    assert [c.status for c in checks] == [FAILED, OK]


def test_ffmpeg_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: str(tmp_path / "nothing"))
    assert only(doctor.check_ffmpeg()).status == FAILED


def test_a_model_that_is_damaged(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_MODELS", str(tmp_path))
    monkeypatch.setattr(doctor, "MINI_DIR", tiny_model)
    assert next(doctor.check_models()).status == OK
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    monkeypatch.setattr(doctor, "MINI_DIR", broken)
    check = next(doctor.check_models())
    assert check.status == FAILED
    assert "dit.safetensors" in check.detail


def test_a_gpu_this_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "detect_gpus", lambda: parse_gpus("1xH100"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = only(doctor.check_gpus())
    assert check.status == WARNING
    assert "CUDA build" in check.way_out


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "test"})
        assert only(doctor.check_ports()).status == WARNING
    assert only(doctor.check_ports()).status == OK


def test_proxies_are_named_without_their_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    assert not list(doctor.check_proxies())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        check = only(doctor.check_proxies())
        assert (check.status, check.detail) == (OK, f"127.0.0.1:{port}, not used for this machine")
    check = only(doctor.check_proxies())
    assert (check.status, "secret" in check.detail) == (WARNING, False)
    assert "unset HTTPS_PROXY" in check.way_out


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert not list(doctor.check_certificates())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert only(doctor.check_certificates()).status == WARNING
    (tmp_path / "ca.pem").write_text("")
    assert only(doctor.check_certificates()).status == OK


def test_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert only(doctor.check_temporary_folder()).status == FAILED
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    check = only(doctor.check_temporary_folder())
    assert check.status == OK
    assert "sockets of Ray in /tmp/liveavatar-" in check.detail


def test_settings_of_another_prefect_and_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "RAY_"))]:
        monkeypatch.delenv(name)
    assert not list(doctor.check_inherited())
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("RAY_gcs_server_port", "1")
    assert [(c.status, c.detail) for c in doctor.check_inherited()] == [
        (WARNING, "PREFECT_API_KEY"),
        (WARNING, "RAY_gcs_server_port"),
    ]
    assert all("they are ignored" in check.way_out for check in doctor.check_inherited())
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert [(c.name, c.way_out[:15]) for c in doctor.check_inherited()] == [("ray settings", "they change how")]
    prefect, ray = doctor.check_services()
    assert (prefect.status, ray.status) == (FAILED, FAILED)
    assert ("unset PREFECT_API_URL" in prefect.way_out, "unset RAY_ADDRESS" in ray.way_out) == (True, True)


def test_files_that_shadow_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "mine.py").write_text("")
    assert not list(doctor.check_folder())
    (tmp_path / "flows").mkdir()
    for name in ("tasks.py", "random.py", "flows/__init__.py", "prefect.py", "prefect.toml"):
        (tmp_path / name).write_text("")
    assert only(doctor.check_folder()).detail == "flows, prefect.py, prefect.toml, random.py, tasks.py"
    monkeypatch.setenv("PYTHONPATH", ":/lib")
    assert [c.name for c in doctor.check_folder()] == ["this folder", "python path"]

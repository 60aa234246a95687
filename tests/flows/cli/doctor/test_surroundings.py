"""The doctor: proxies, certificates, folders and settings of other programs."""

import os
import socket
from pathlib import Path

import pytest

from flows.cli.doctor import surroundings
from flows.cli.doctor.check import FAILED, OK, WARNING
from tests.flows.cli.doctor.one import only


def test_proxies_are_named_without_their_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    assert not list(surroundings.check_proxies())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        check = only(surroundings.check_proxies())
        assert (check.status, check.detail) == (OK, f"127.0.0.1:{port}, not used for this machine")
    check = only(surroundings.check_proxies())
    assert (check.status, "secret" in check.detail) == (WARNING, False)
    assert "unset HTTPS_PROXY" in check.way_out


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert not list(surroundings.check_certificates())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert only(surroundings.check_certificates()).status == WARNING
    (tmp_path / "ca.pem").write_text("")
    assert only(surroundings.check_certificates()).status == OK


def test_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert only(surroundings.check_temporary_folder()).status == FAILED
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    check = only(surroundings.check_temporary_folder())
    assert check.status == OK
    assert "sockets of Ray in /tmp/liveavatar-" in check.detail


def test_settings_of_another_prefect_and_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "RAY_"))]:
        monkeypatch.delenv(name)
    assert not list(surroundings.check_inherited())
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("RAY_gcs_server_port", "1")
    assert [(c.status, c.detail) for c in surroundings.check_inherited()] == [
        (WARNING, "PREFECT_API_KEY"),
        (WARNING, "RAY_gcs_server_port"),
    ]
    assert all("they are ignored" in check.way_out for check in surroundings.check_inherited())
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert [(c.name, c.way_out[:15]) for c in surroundings.check_inherited()] == [("ray settings", "they change how")]
    prefect, ray = surroundings.check_services()
    assert (prefect.status, ray.status) == (FAILED, FAILED)
    assert ("unset PREFECT_API_URL" in prefect.way_out, "unset RAY_ADDRESS" in ray.way_out) == (True, True)


def test_files_that_shadow_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "mine.py").write_text("")
    assert not list(surroundings.check_folder())
    (tmp_path / "flows").mkdir()
    for name in ("tasks.py", "random.py", "flows/__init__.py", "prefect.py", "prefect.toml"):
        (tmp_path / name).write_text("")
    assert only(surroundings.check_folder()).detail == "flows, prefect.py, prefect.toml, random.py, tasks.py"
    monkeypatch.setenv("PYTHONPATH", ":/lib")
    assert [c.name for c in surroundings.check_folder()] == ["this folder", "python path"]


def test_settings_that_libraries_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(surroundings.check_library_settings())
    monkeypatch.setenv("OTEL_PROPAGATORS", "b3")
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    check = only(surroundings.check_library_settings())
    assert (check.status, check.detail) == (WARNING, "OTEL_PROPAGATORS, WEB_CONCURRENCY")
    assert "they are ignored" in check.way_out

"""The doctor: memory, disk, GPUs and ports of a machine."""

import socket
from pathlib import Path

import pytest

from flows.cli.doctor import machine
from flows.cli.doctor.check import FAILED, OK, WARNING
from liveavatar.hardware import parse_gpus
from tests.flows.cli.doctor.one import only


@pytest.mark.parametrize(
    ("free", "status"),
    [pytest.param(0.5, FAILED, id="none"), pytest.param(2.0, WARNING, id="little"), pytest.param(9.0, OK, id="enough")],
)
def test_memory_and_disk(free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_gb", lambda: free)
    assert next(machine.check_memory()).status == status
    disk = {0.5: 0.1, 2.0: 2.0, 9.0: 9.0}[free]
    monkeypatch.setattr(machine, "free_disk_gb", lambda path: disk)
    assert {c.status for c in machine.check_disk((tmp_path, tmp_path))} == {status}


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    checks = list(machine.check_disk((file / "inside", tmp_path)))
    assert [c.status for c in checks] == [FAILED, OK]


def test_a_home_with_a_question_mark(tmp_path: Path) -> None:
    odd = tmp_path / "what?"
    odd.mkdir()
    home, out = machine.check_disk((odd, odd))
    assert (home.status, out.status) == (FAILED, OK)
    assert "question mark" in home.detail


def test_a_gpu_this_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(machine, "detect_gpus", lambda: parse_gpus("1xH100"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = only(machine.check_gpus())
    assert check.status == WARNING
    assert "CUDA build" in check.way_out


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(machine, "PORTS", {port: "test"})
        assert only(machine.check_ports()).status == WARNING
    assert only(machine.check_ports()).status == OK

"""GPUs by name and size, and the reading of this machine."""

import math
import os
import socket
import threading
from pathlib import Path

import pytest

from liveavatar import hardware
from liveavatar.errors import InputError
from liveavatar.hardware import (
    GB,
    Machine,
    available_gb,
    cores,
    detect_gpus,
    detect_machine,
    free_port,
    gpu_of,
    host_memory_gb,
    listed_gpus,
    listens,
    memory_limit_gb,
    parse_gpus,
    why_no_port,
)


@pytest.mark.parametrize(
    ("text", "count", "memory"),
    [
        pytest.param("4x24GB", 4, 24, id="count and memory"),
        pytest.param("24gb", 1, 24, id="memory alone"),
        pytest.param("1xH100", 1, 80, id="name"),
        pytest.param("8*h200", 8, 141, id="other sign"),
        pytest.param("2xA100-40GB", 2, 40, id="name and memory"),
        pytest.param("2xRTX 4090", 2, 24, id="name with a space"),
        pytest.param("cpu", 0, 0, id="none"),
    ],
)
def test_parse_gpus(text: str, count: int, memory: float) -> None:
    gpus = parse_gpus(text)
    assert len(gpus) == count
    assert all(g.memory_gb == memory for g in gpus)


@pytest.mark.parametrize("text", ["", "0x24GB", "99x24GB", "4x", "2xToaster", "-1xH100", "1x0GB"])
def test_parse_gpus_refuses(text: str) -> None:
    with pytest.raises(InputError, match="gpus"):
        parse_gpus(text)


def test_a_24gb_card_has_22_15_usable() -> None:
    assert parse_gpus("24GB")[0].usable_gb == pytest.approx(22.15)


MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 12582912 kB\n"  # 16 GB, 12 of them available
UNIFIED = {"memory.max": f"{8 * GB}\n", "memory.current": f"{5 * GB}\n", "memory.stat": f"anon 7\ninactive_file {GB}\n"}
FIRST = {
    "memory/memory.limit_in_bytes": f"{8 * GB}",
    "memory/memory.usage_in_bytes": f"{5 * GB}",
    "memory/memory.stat": f"total_inactive_file {GB}\n",
}


@pytest.mark.parametrize(
    ("files", "used", "total"),
    [
        pytest.param({}, 4, 16, id="a machine"),
        pytest.param(UNIFIED, 4, 8, id="a container"),
        pytest.param(FIRST, 4, 8, id="a container of an older system"),
        pytest.param(UNIFIED | {"memory.max": "max\n"}, 4, 16, id="a container without a limit"),
        pytest.param(UNIFIED | {"memory.max": f"{99 * GB}"}, 4, 16, id="a limit above the machine"),
        pytest.param(UNIFIED | {"memory.stat": "anon 7\n"}, 5, 8, id="no word on files"),
    ],
)
def test_memory_of_the_machine_or_its_container(
    files: dict[str, str], used: float, total: float, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert host_memory_gb(tmp_path) == pytest.approx((used, total))


def test_a_system_that_tells_nothing_has_its_memory_free(tmp_path: Path) -> None:
    used, total = host_memory_gb(tmp_path)
    assert (used, total > 0) == (0, True)


def test_this_machine_is_read() -> None:
    assert 0 < available_gb() <= memory_limit_gb()
    assert all(g.memory_gb > 1 for g in detect_gpus())
    assert GB == 2**30


@pytest.mark.parametrize(
    ("name", "memory", "kind"),
    [
        pytest.param("NVIDIA H100 80GB HBM3", 79.6, "H100", id="driver's name"),
        pytest.param("NVIDIA GeForce RTX 4090", None, "4090", id="no memory needed"),
        pytest.param("Toaster", 24.0, "4090", id="unknown with 24 GB"),
        pytest.param("Toaster", 28.0, "5090", id="unknown with 28 GB"),
        pytest.param("Toaster", 48.0, "L40S", id="unknown with 48 GB"),
        pytest.param("Toaster", 141.0, "H200", id="unknown with 141 GB"),
    ],
)
def test_a_gpu_has_the_rates_of_its_kind(name: str, memory: float | None, kind: str) -> None:
    gpu = gpu_of(name, memory)
    assert gpu.rates == gpu_of(kind).rates
    assert gpu.assumed == ("" if kind in name.upper().replace(" ", "") else kind)
    assert gpu.memory_gb == (memory or gpu_of(kind).memory_gb)


@pytest.mark.parametrize(
    ("gpus", "has_fp8"),
    [
        pytest.param("2xH100", True, id="every one"),
        pytest.param("1xA100", False, id="none"),
        pytest.param("cpu", False, id="no GPU"),
    ],
)
def test_8_bit_units(gpus: str, has_fp8: bool) -> None:
    assert Machine(gpus=parse_gpus(gpus), cores=1, host_gb=1, disk_gb=1).has_fp8 == has_fp8
    mixed = Machine(gpus=(*parse_gpus(gpus), gpu_of("A100")), cores=1, host_gb=1, disk_gb=1)
    assert not mixed.has_fp8


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_used(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert detect_gpus() == ()


def test_a_lost_gpu_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = tmp_path / "nvidia-smi"
    query.write_text(
        "#!/bin/sh\necho 'GPU-1, NVIDIA H200, 143771'\n"
        "echo 'Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.'\nexit 15\n"
    )
    query.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert [gpu.name for gpu in detect_gpus()] == ["NVIDIA H200"]


def test_another_machine_has_no_limits_of_this_one(tmp_path: Path) -> None:
    other = detect_machine(tmp_path, parse_gpus("8xH200"))
    assert (other.host_gb, other.disk_gb) == (math.inf, math.inf)
    here = detect_machine(tmp_path / "not" / "there", ())
    assert here.cores == cores() >= 1
    assert 0 < here.host_gb < math.inf
    assert 0 < here.disk_gb < math.inf


def test_the_home_has_a_disk_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("liveavatar.hardware.free_disk_gb", lambda path: 5.0 if path.name == "home" else 70.0)
    here = detect_machine(tmp_path / "out", ())
    assert (here.disk_gb, here.work_gb) == (70.0, 5.0)


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert free_port() != server.getsockname()[1]


def test_a_port_listens_while_a_socket_does() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert listens("127.0.0.1", port, 1.0)
    assert not listens("127.0.0.1", port, 1.0)


LISTED = "GPU-1a, NVIDIA H100 80GB HBM3, 81559\nGPU-2b, NVIDIA A100-SXM4-40GB, 40960\nGPU-3c, NVIDIA H200, 143771\n"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        pytest.param(None, ["H100", "A100", "H200"], id="all"),
        pytest.param("0", ["H100"], id="a number"),
        pytest.param("2, 0", ["H200", "H100"], id="an order"),
        pytest.param("GPU-2b", ["A100"], id="a UUID"),
        pytest.param("GPU-3,1", ["H200", "A100"], id="the beginning of one"),
        pytest.param("1,7,0", ["A100"], id="none after an unknown one"),
        pytest.param("7", [], id="an unknown one"),
    ],
)
def test_only_visible_gpus_are_used(visible: str | None, names: list[str]) -> None:
    gpus = listed_gpus(LISTED, visible)
    assert len(gpus) == len(names)
    assert all(name in gpu.name for name, gpu in zip(names, gpus, strict=True))


def test_gpus_of_several_kinds_are_one_machine() -> None:
    assert parse_gpus("1xH100, 2x24GB") == (*parse_gpus("1xH100"), *parse_gpus("2x24GB"))
    with pytest.raises(InputError, match="65 GPUs are more"):
        parse_gpus("64xH100,1x24GB")


def test_memory_is_left_to_other_programs() -> None:
    left = Machine(gpus=parse_gpus("2x24GB"), cores=1, host_gb=8, disk_gb=1).leaving(6)
    assert [gpu.usable_gb for gpu in left.gpus] == [pytest.approx(16.15)] * 2
    assert left.host_gb == 8
    assert Machine(gpus=(), cores=1, host_gb=8, disk_gb=1).leaving(6).host_gb == 2


@pytest.mark.parametrize(
    ("text", "vnni"),
    [
        pytest.param("flags\t\t: fpu avx2 avx512f avx512_vnni fsrm", True, id="AVX-512 VNNI"),
        pytest.param("flags\t\t: fpu avx2 avx_vnni", True, id="AVX VNNI"),
        pytest.param("flags\t\t: fpu avx512f avx512_vnni amx_bf16 amx_int8 amx_tile", False, id="AMX"),
        pytest.param("flags\t\t: fpu avx2 avx512f avx512_bf16", False, id="none of them"),
        pytest.param("Features\t: fp asimd asimddp i8mm", False, id="ARM"),
        pytest.param(None, False, id="a system that does not say"),
    ],
)
def test_vnni_is_read_from_the_processors_flags(text: str | None, vnni: bool, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(text + "\n")
    assert hardware.uses_vnni(tmp_path) == vnni
    assert bool(hardware.processor_flags(tmp_path)) == (text is not None)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "another program" in why_no_port(server.getsockname()[1], 0.0)
    assert why_no_port(free_port(), 0.0) == ""


def test_a_port_that_becomes_free_is_waited_for() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    closing = threading.Timer(0.3, server.close)
    closing.start()
    assert why_no_port(server.getsockname()[1], 20.0) == ""

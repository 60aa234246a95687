"""The name of the arithmetic: the GPU, or the processor's instructions and threads."""

import re
from functools import partial
from pathlib import Path

import pytest

from liveavatar import hardware
from tasks.store import machine


def test_a_gpu_names_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "accelerators", lambda: ("NVIDIA H200", "NVIDIA H200"))
    assert machine.signature() == "NVIDIA H200"


@pytest.mark.parametrize("cores", [1, 12])
def test_threads_count_on_a_processor(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "accelerators", tuple)
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    assert re.fullmatch(rf"\w+-(amx_bf16|avx512_bf16|avx512f|avx2|base)(-vnni|-no_vnni)?-{cores}", machine.signature())


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu avx2 avx512f", "avx512f"),
        ("avx2 fpu", "avx2"),
        ("avx512f amx_bf16 avx512_bf16 avx512_vnni amx_int8", "amx_bf16"),
        ("avx512f avx512_bf16 avx512_vnni", "avx512_bf16"),
        ("avx512f avx512_bf16", "avx512_bf16-no_vnni"),
        ("avx512f avx512_vnni", "avx512f-vnni"),
        ("avx2 avx_vnni", "avx2-vnni"),
        ("fpu", "base"),
    ],
)
def test_the_widest_instructions_are_named(
    flags: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(hardware, "widest_vectors", partial(hardware.widest_vectors, tmp_path))
    monkeypatch.setattr(hardware, "uses_vnni", partial(hardware.uses_vnni, tmp_path))
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert machine.processor.__wrapped__() == f"x86_64-{level}"

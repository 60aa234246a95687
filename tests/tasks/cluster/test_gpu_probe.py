"""The probe of a GPU, with the driver's library played by numbers."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.cluster import gpu_probe


@pytest.mark.parametrize(
    ("errors", "usable", "asked"),
    [
        pytest.param((0, 0, 0), True, 3, id="a context was made"),
        pytest.param((100, 0, 0), False, 1, id="no device"),
        pytest.param((999, 0, 0), False, 1, id="fell off the bus"),
        pytest.param((0, 101, 0), False, 2, id="no such device"),
        pytest.param((0, 0, 46), False, 3, id="waits for a reset"),
        pytest.param((0, 0, 2), True, 3, id="full"),
    ],
)
def test_a_gpu_can_be_used_when_a_context_is_made_on_it(errors: tuple[int, ...], usable: bool, asked: int) -> None:
    calls: list[str] = []

    def says(name: str, error: int) -> Any:
        def call(*_: object) -> int:
            calls.append(name)
            return error

        return call

    names = ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain")
    cuda = SimpleNamespace(**{name: says(name, error) for name, error in zip(names, errors, strict=True)})
    assert gpu_probe.is_usable(lambda _: cuda) == usable
    assert calls == list(names[:asked])


def test_without_the_library_nothing_speaks_against_a_gpu() -> None:
    def load(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert gpu_probe.is_usable(load)


def test_it_runs_as_a_program_of_its_own() -> None:
    asked = subprocess.run(
        [sys.executable, "-I", gpu_probe.__file__], capture_output=True, text=True, timeout=60, check=False
    )
    assert asked.returncode in (0, 1)
    assert not asked.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("visible", "usable"), [("0", True), ("99", False)])
def test_a_real_driver_is_asked(visible: str, usable: bool) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    asked = subprocess.run([sys.executable, "-I", gpu_probe.__file__], env=environment, timeout=60, check=False)
    assert (asked.returncode == 0) == usable

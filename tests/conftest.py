"""What every test starts from: caches in a folder of their own, one thread, and a random model of a few weights."""

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SHARED = ("tests/training", "tests/quality")  # folders whose files share fixtures of many seconds

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # it is read when Triton is first imported
# A shell starts what runs in its background with Ctrl-C ignored, and children inherit that; tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # until all tests are collected: it takes a fifth of the time of their imports


def pytest_collection_finish() -> None:
    """Leave the modules out of later garbage collections."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let the interpreter free them at its end."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, so that no worker is left with it when the other has ended."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow and scope_of(item.nodeid) not in SHARED)


def scope_of(nodeid: str) -> str:
    """Return the file of a test, or its folder if that is in `SHARED`."""
    file = nodeid.split("::", 1)[0]
    folder = file.rpartition("/")[0]
    return folder if folder in SHARED else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file on one worker, and those of a folder in `SHARED`."""
    from xdist.scheduler import LoadScopeScheduling

    class FixtureScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """Fail the test that ended its worker, and hand on those that have not run; xdist would run it again."""
            work = self.assigned_work[node]
            crashed: str | None = next(
                (test for tests in work.values() for test, done in tests.items() if not done), None
            )
            if crashed is not None:
                work[scope_of(crashed)][crashed] = True
            for scope in [scope for scope, tests in work.items() if all(tests.values())]:
                del work[scope]
            super().remove_node(node)
            return crashed

        def schedule(self) -> None:
            """Give each worker files until three tests wait, or end it: it keeps its last test until more come."""
            for _ in range(3):
                super().schedule()

    return FixtureScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates, of names that are no UTF-8: pytest-xdist cannot send them and would end the whole run."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sendable(key): _sendable(item) for key, item in value.items()}
    return [_sendable(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a model with the embedded model's shape, a few thousand random weights, and nothing learned."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def make_tiny_model(folder: Path) -> Path:
    """Fill a folder with such a model."""
    import torch

    from liveavatar.checkpoints.load import build_part, save_model
    from liveavatar.checkpoints.weight_files import module_shapes
    from liveavatar.config import TINY

    generator = torch.Generator().manual_seed(0)
    weights = {
        part: {
            name: torch.randn(*shape, generator=generator) * (0.5 / max(1, shape[-1] if shape else 1) ** 0.5)
            for name, shape in module_shapes(build_part(TINY, part)).items()
        }
        for part in ("dit", "vae", "text")
    }
    save_model(folder, TINY, weights)
    return folder

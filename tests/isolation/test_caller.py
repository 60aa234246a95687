"""A call in a worker: its result and its errors come out; a crash, a hang and a bomb are refusals of the file."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from liveavatar.errors import CheckpointError, InputError
from liveavatar.isolation.caller import THREAD_SETTINGS, THREADS, Workers
from liveavatar.paths import REPO_ROOT
from tests.isolation import faults

FILE = Path("odd.wav")
Call = Callable[[Workers], object]


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(silent_s=60.0, notice_s=0.5)
    yield pool
    pool.end()


@pytest.fixture
def hasty() -> Iterator[Workers]:
    pool = Workers(silent_s=3.0, notice_s=0.5)
    yield pool
    pool.end()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        pytest.param(lambda w: w.call(faults.crash, FILE), r"reading it crashes \(SIGSEGV\)", id="crash"),
        pytest.param(lambda w: w.call(faults.stop, FILE), r"crashes \(SIGSTOP\)", id="stopped"),
        pytest.param(lambda w: w.call(faults.sleep, FILE, 60), r"came no further for 3 s", id="hang"),
        pytest.param(
            lambda w: w.call(faults.swell, FILE, 10**9, memory_bytes=300_000_000), "more than 300 MB", id="memory bomb"
        ),
    ],
)
def test_what_a_file_does_to_its_decoder_is_a_refusal(hasty: Workers, call: Call, says: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=rf"^odd\.wav: .*{says}") as caught:
        call(hasty)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 20
    assert hasty.call(faults.facts, FILE)["path"] == "odd.wav", "the next call is served"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_a_worker_that_somebody_kills_is_replaced(workers: Workers, tmp_path: Path, number: signal.Signals) -> None:
    assert workers.call(faults.die_once, tmp_path / "odd.wav", int(number)) == number


def test_an_idle_worker_that_is_gone_is_replaced(workers: Workers) -> None:
    before = workers.call(faults.facts, FILE)["process"]
    assert workers.call(faults.facts, FILE)["process"] == before, "it is kept for the next call"
    os.kill(before, signal.SIGKILL)
    assert workers.call(faults.facts, FILE)["process"] != before


def test_progress_is_waited_for(hasty: Workers) -> None:
    assert hasty.call(faults.work, FILE, 4.0, beats=True) == "done"


def test_a_long_silence_is_announced(hasty: Workers, caplog: pytest.LogCaptureFixture) -> None:
    hasty.call(faults.facts, FILE)
    hasty.call(faults.sleep, FILE, 2.0)
    lines = [r.getMessage() for r in caplog.records if "given up" in r.getMessage()]
    assert lines == ["odd.wav: reading it takes long; it is given up after 3 s"]


def test_a_typed_error_and_log_records_come_out_as_they_are(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError, match=r"^odd\.wav: is no use; take another$"):
        workers.call(faults.refuse, FILE)
    assert ("liveavatar.media", logging.WARNING, "odd.wav looks odd") in caplog.record_tuples


def test_a_worker_that_refused_a_file_reads_the_next_one(workers: Workers) -> None:
    before = workers.call(faults.facts, FILE)["process"]
    with pytest.raises(CheckpointError):
        workers.call(faults.refuse, FILE)
    assert workers.call(faults.facts, FILE)["process"] == before
    with pytest.raises(InputError):
        workers.call(faults.swell, FILE, 10**9, memory_bytes=300_000_000)
    assert workers.call(faults.facts, FILE)["process"] != before, "one that ran out of memory is replaced"


def test_a_mistake_of_ours_is_no_refusal(workers: Workers) -> None:
    with pytest.raises(RuntimeError, match=r"^AttributeError: no such thing in odd\.wav\n") as caught:
        workers.call(faults.fail, FILE)
    assert "in fail" in caught.value.__notes__[0]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("shape", [[5, 4, 3], [7], [0, 3]], ids=str)
def test_arrays(workers: Workers, shape: list[int], dtype: str) -> None:
    got = workers.call(faults.array, FILE, shape, dtype)
    np.testing.assert_array_equal(got, faults.array(FILE, shape, dtype))
    assert got.dtype == dtype
    assert got.flags.writeable


def test_paths_are_those_of_the_caller(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, REPO_ROOT):
        monkeypatch.chdir(folder)
        got = workers.call(faults.facts, Path("Jos\udce9.wav"))
        assert (got["path"], got["folder"], got["value"]) == ("Jos\udce9.wav", str(folder), 0.5)


def test_calls_of_two_threads_run_at_the_same_time(workers: Workers) -> None:
    meeting, processes = threading.Barrier(2), []

    def call() -> None:
        processes.append(workers.call(faults.facts, FILE)["process"])
        meeting.wait(20)
        workers.call(faults.work, FILE, 1.0, beats=True)

    threads = [threading.Thread(target=call) for _ in range(2)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(processes) == 2
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("setting", "threads"), [(None, THREADS), ("64", THREADS), ("1", 1), ("2,64", 2), ("0", THREADS), ("many", THREADS)]
)
def test_many_cores_do_not_fill_the_memory_of_a_worker(
    setting: str | None, threads: int, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_SETTINGS:
        monkeypatch.delenv(name, raising=False)
        if setting is not None:
            monkeypatch.setenv(name, setting)
    assert workers.call(faults.environment, FILE, *THREAD_SETTINGS) == [str(threads)] * len(THREAD_SETTINGS)


def test_files_of_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the file of the user')")
    (tmp_path / "liveavatar").mkdir()
    script = "from liveavatar.isolation.caller import isolated; from tests.isolation import faults; "
    script += "print(isolated(faults.facts, 'odd.wav')['path'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(REPO_ROOT)},
    )  # fmt: skip
    assert done.stdout == "odd.wav\n", done.stderr


def test_a_worker_ends_with_its_caller(tmp_path: Path) -> None:
    """Also when the caller is killed while the worker works."""
    script = "from liveavatar.isolation.caller import isolated; from tests.isolation import faults; "
    script += "print(isolated(faults.facts, 'odd.wav')['process'], flush=True); isolated(faults.sleep, 'odd.wav', 60)"
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    worker = psutil.Process(int(caller.stdout.readline()))
    caller.kill()
    caller.communicate(timeout=20)
    assert psutil.wait_procs([worker], timeout=10)[1] == []

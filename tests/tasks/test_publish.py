"""Publishing: one run at a time below a folder, whatever store it came from."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.publish import _alone_below


def test_runs_with_different_stores_publish_one_after_another(tmp_path: Path) -> None:
    folder, inside, together = tmp_path / "out", [], []

    def run(number: int) -> None:
        with _alone_below(folder):
            inside.append(number)
            together.append(len(inside))
            time.sleep(0.1)
            inside.remove(number)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(run, range(3)))
    assert together == [1, 1, 1]
    assert not list(folder.iterdir()), "a lock leaves no file among the runs"

"""Publishing: one run at a time below a folder, whatever store it came from, and what stands there is whole."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks import publish
from tasks.publish import publishing_lock


def test_runs_with_different_stores_publish_one_after_another(tmp_path: Path) -> None:
    folder, inside, together = tmp_path / "out", [], []

    def run(number: int) -> None:
        with publishing_lock(folder):
            inside.append(number)
            together.append(len(inside))
            time.sleep(0.1)
            inside.remove(number)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(run, range(3)))
    assert together == [1, 1, 1]
    assert not list(folder.iterdir()), "a lock leaves no file among the runs"


@pytest.mark.parametrize(
    ("before", "renames"),
    [
        pytest.param(None, 1, id="nothing there"),
        pytest.param([], 1, id="a claimed folder is never away"),
        pytest.param(["old.txt"], 3, id="an older run goes"),
    ],
)
def test_a_run_takes_its_place(
    before: list[str] | None, renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "out", tmp_path / "made.txt"
    made.write_text("new")
    if before is not None:
        out.mkdir()
    for name in before or ():
        (out / name).touch()
    calls, rename = [], os.rename

    def counted(*paths: Any) -> None:
        calls.append(paths)
        rename(*paths)

    monkeypatch.setattr(publish, "products_of", lambda _: {"sub/made.txt": made})
    monkeypatch.setattr("liveavatar.report.page.write_report", lambda *_, **__: None)
    monkeypatch.setattr(os, "rename", counted)
    publish.replace_folder(out, None, {}, {})  # type: ignore[arg-type]
    assert len(calls) == renames
    files = [p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()]
    assert sorted(files) == ["manifest.json", "report.json", "sub/made.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made.txt", "out"]

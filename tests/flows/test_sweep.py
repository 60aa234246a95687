"""The page and the tables of a sweep over the evaluation split."""

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, State

from flows import sweep
from flows.parameters import RenderParameters
from flows.run_record import state_of
from liveavatar.errors import CapacityError, InputError
from liveavatar.report.sweep_page import CHARTED


def _row(steps: int, **more: object) -> dict[str, object]:
    return {"steps": steps, "size": "all", "sync_error_frames": 1.0 / steps, "texture_psnr": 25.0 + steps,
            "jerk_index": 1.0, "ms_per_frame": 10.0 * steps, **more}  # fmt: skip


def test_steps_and_sizes_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [_row(1, texture_psnr=None), _row(2), _row(4)]
    sizes = [{"size": "256*384", "recommended_steps": 2}, {"size": "384*256", "recommended_steps": 4}]
    sweep.write_tables(tmp_path, rows, sizes)
    assert pd.read_parquet(tmp_path / "sweep.parquet")["steps"].tolist() == [1, 2, 4]
    assert pd.read_parquet(tmp_path / "sizes.parquet")["recommended_steps"].tolist() == [2, 4]
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("<svg") == len(CHARTED)
    assert page.count("<table>") == 2
    assert page.count("<circle") == 3 * len(CHARTED) - 1  # one value is missing
    sweep.print_table({"rows": rows, "sizes": sizes, "out": str(tmp_path)}, as_json=False)
    shown = capsys.readouterr().out
    assert shown.index("sync_error_frames") < shown.index("recommended_steps")


def test_every_number_of_steps_is_rendered_at_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[tuple[int, str | None, str]] = []

    def render(parameters: RenderParameters, *, return_state: bool) -> State[dict[str, object]]:
        assert return_state, "or a render of poor quality would end the sweep"
        rendered.append((parameters.sample_steps, parameters.size, Path(parameters.out).name))
        timing = dict.fromkeys(sweep.TIMES, 40.0 * parameters.sample_steps)
        inputs = {"image": {"width": 256, "height": 384}}
        status = "passed" if parameters.sample_steps > 1 else "failed"
        report = {"inputs": inputs, "metrics": {"jerk_index": 1.5}, "timing": timing, "status": status}
        return state_of(status, {"report": report}, [], "")

    monkeypatch.setattr(sweep, "check", lambda _: None)
    monkeypatch.setattr(sweep, "render_flow", lambda _: render)
    monkeypatch.setattr(sweep, "claim_output", lambda _: tmp_path)
    monkeypatch.setattr(sweep, "create_table_artifact", lambda **_: None)
    job = RenderParameters(audio="voice.wav", image="face.png", prompt="a woman talks", out=str(tmp_path))
    state = sweep.sweep.fn(job, [1, 4, 1], [None, "384*256"])
    assert (state.name, state.message) == (
        "Failed",
        "failed: 1 steps at 256*384 failed; 1 steps at 384*256 failed",
    )
    table = state.data
    assert rendered == [
        (1, None, "steps1"),
        (4, None, "steps4"),
        (1, "384*256", "steps1-384x256"),
        (4, "384*256", "steps4-384x256"),
    ]
    assert [(row["steps"], row["size"], row["ms_per_frame"]) for row in table["rows"]] == [
        (1, "256*384", 40.0),
        (4, "256*384", 160.0),
        (1, "384*256", 40.0),
        (4, "384*256", 160.0),
    ]
    assert table["rows"][0]["jerk_index"] == 1.5
    rendered.clear()  # and once more into the same folder, as after an interruption
    sweep.sweep.fn(job.model_copy(update={"size": "512*768"}))
    assert [(steps, size) for steps, size, _ in rendered] == [(steps, "512*768") for steps in (3, 4, 5, 6)]
    assert len(pd.read_parquet(tmp_path / "sweep.parquet")) == 4


def test_a_size_that_cannot_be_rendered_ends_the_sweep_before_the_first_render(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "render_flow", lambda _: pytest.fail("it renders"))
    job = RenderParameters(audio="voice.wav", image="face.png", prompt="a woman talks", out=str(tmp_path))
    with pytest.raises(InputError, match=r"--size .*9000"):
        sweep.sweep.fn(job, [1], ["384*256", "9000*9000"])


@pytest.mark.parametrize("name", [pytest.param(n, id=n) for n in ("sweep.parquet", "sizes.parquet")])
def test_a_full_disk_keeps_the_tables_that_were_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.write_tables(tmp_path, [_row(4)], [{"recommended_steps": 2}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    whole = sweep.write_atomically

    def write(path: Path, data: bytes) -> None:
        if path.name == name:
            monkeypatch.setattr(os, "fsync", _no_space)
        whole(path, data)

    monkeypatch.setattr(sweep, "write_atomically", write)
    with pytest.raises(CapacityError, match=f"{re.escape(str(tmp_path))}: the disk is full"):
        sweep.write_tables(tmp_path, [_row(4)], [{"recommended_steps": 4}])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_sweep_of_one_job_has_no_table_of_sizes(tmp_path: Path) -> None:
    sweep.write_tables(tmp_path, [_row(4)])
    assert not (tmp_path / "sizes.parquet").exists()
    assert (tmp_path / "sweep.html").read_text().count("<table>") == 1


def test_a_sweep_of_the_split_that_is_cancelled_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tables(*_: object) -> Iterator[tuple[list[dict[str, object]], list[dict[str, object]]]]:
        yield [_row(3)], [{"size": "256*384", "recommended_steps": 3}]
        raise TerminationSignal(signal.SIGTERM)

    asked: list[bool] = []

    def cancelled(make: Callable[[], State[object]]) -> State[object]:
        asked.append(True)
        with pytest.raises(TerminationSignal):
            make()
        return Cancelled()

    monkeypatch.setattr(sweep, "sweep_split", tables)
    monkeypatch.setattr(sweep, "unless_cancelled", cancelled)
    assert sweep.sweep_evaluation.fn("mini", [3, 4], None, str(tmp_path)).is_cancelled()
    assert asked == [True]
    assert pd.read_parquet(tmp_path / "sweep.parquet")["steps"].tolist() == [3]

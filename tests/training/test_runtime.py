"""Work made ahead by threads: in order, beside the taker, never more of it than asked for; a stage that goes on."""

import argparse
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.training import runtime
from liveavatar.training.runtime import Budget, JsonLog, Saver, TrainRank, load_checkpoint, map_ahead, resume


def test_values_come_in_order_and_few_are_ahead() -> None:
    begun: list[int] = []
    taken = 0

    def make(item: int) -> int:
        begun.append(item)
        assert max(begun) < taken + 1 + 4, "one that is being taken, and four ahead"
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    values = []
    for value in map_ahead(make, range(20), threads=3, most=4):
        values.append(value)
        taken += 1
    assert values == [i * i for i in range(20)]
    assert sorted(begun) == list(range(20))


def test_the_next_is_made_while_one_is_used() -> None:
    second = threading.Event()
    values = map_ahead(lambda item: second.set() if item else None, range(2), threads=1, most=1)
    next(values)
    assert second.wait(10), "nothing was made beside the taker"
    assert len(list(values)) == 1


def test_what_fails_is_raised_where_it_is_taken() -> None:
    values = map_ahead(lambda item: 1 // item, (1, 0, 1), threads=2, most=2)
    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)


class Counter:
    """A trainer whose state is a number of steps."""

    steps = 0

    def state(self, seconds: float) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": seconds}

    def load(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


CPU = torch.device("cpu")
SECOND = TrainRank(1, 2, CPU)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that budgets read, in its only element."""
    now = [100.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("asked", "steps", "spent"), [(True, 5, 7.0), (False, 0, 0.0)])
def test_a_stage_goes_on_with_what_is_left_of_its_budget(
    asked: bool, steps: int, spent: float, rank: TrainRank, clock: list[float], tmp_path: Path
) -> None:
    path, trainer = tmp_path / "a.pt", Counter()
    trainer.steps = 5
    runtime.save_checkpoint(path, trainer.state(7.0))
    again = Counter()
    budget = resume(again, path, argparse.Namespace(resume=asked, seconds=14.0), rank)
    assert (again.steps, budget.elapsed, budget.fraction(0)) == (steps, spent, spent / 14)


def test_a_stage_without_a_checkpoint_begins(rank: TrainRank, clock: list[float], tmp_path: Path) -> None:
    budget = resume(Counter(), tmp_path / "none.pt", argparse.Namespace(resume=True, seconds=14.0), rank)
    assert budget.elapsed == 0


def test_checkpoints_are_written_when_due_by_the_first_rank(
    rank: TrainRank, clock: list[float], tmp_path: Path
) -> None:
    trainer = Counter()
    first = Saver(tmp_path / "first.pt", trainer, Budget(rank, 100, spent=3.0), every=10.0)
    second = Saver(tmp_path / "second.pt", trainer, Budget(SECOND, 100), every=10.0)
    saved = []
    for now in (100.0, 110.0, 110.5, 120.0, 121.0):
        clock[0], trainer.steps = now, trainer.steps + 1
        saved.append((first.save_if_due(), second.save_if_due()))
    assert saved == [(False, False), (False, False), (True, False), (False, False), (True, False)]
    assert load_checkpoint(tmp_path / "first.pt", CPU) == {"steps": 5, "seconds": 24.0}
    assert not (tmp_path / "second.pt").exists()


def test_a_report_is_a_line_of_the_file_and_of_the_log(
    rank: TrainRank, clock: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for who in (rank, SECOND):
        journal = JsonLog(tmp_path / "teacher.jsonl", who)
        journal.report(20, Budget(who, 9, spent=4.0), {"loss": torch.tensor(0.25), "psnr": 30.123456789}, part="dmd")
    (line,) = (tmp_path / "teacher.jsonl").read_text().splitlines()
    assert json.loads(line) == {"part": "dmd", "step": 20, "seconds": 4.0, "loss": 0.25, "psnr": 30.123457}
    assert caplog.messages == ["teacher 20, 4 s: part dmd, loss 0.25, psnr 30.12"]


class Stepper(Counter):
    """A trainer whose steps take a second each."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.step, self.measured = clock, 0, list[int]()

    def train_step(self, fraction: float) -> dict[str, torch.Tensor]:
        self.clock[0] += 1
        self.step += 1
        return {"loss": torch.tensor(fraction)}

    def held_out(self) -> dict[str, float]:
        self.measured.append(self.step)
        return {"psnr": 30.0}


@pytest.mark.parametrize("who", [pytest.param(TrainRank(0, 1, CPU), id="alone"), pytest.param(SECOND, id="second")])
def test_steps_are_logged_measured_and_saved_until_the_budget_is_spent(
    who: TrainRank, clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, rows = Stepper(clock), list[dict[str, float]]()
    budget = Budget(who, 9)
    monkeypatch.setattr(budget, "fraction", lambda step: step / 9)
    saver = Saver(tmp_path / "a.pt", trainer, budget, every=100.0)
    journal = JsonLog(tmp_path / "a.jsonl", who)
    runtime.run_steps(trainer, saver, journal, argparse.Namespace(log_every=2), 2, lambda row: rows.append(dict(row)))
    assert trainer.step == 9
    assert [row["loss"] for row in rows] == pytest.approx([1 / 9, 3 / 9, 5 / 9, 7 / 9])
    assert trainer.measured == ([4, 8, 9] if who.first else [])
    assert [i for i, row in enumerate(rows) if "psnr" in row] == ([1, 3] if who.first else [])
    assert (tmp_path / "a.pt").exists() == who.first
    if who.first:
        lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        assert [(line["step"], line.get("final")) for line in lines] == [
            (2, None),
            (4, None),
            (6, None),
            (8, None),
            (9, 1),
        ]

"""Report of a run: seconds of updates by kind, digests of all bits, and the full depth on paper."""

from pathlib import Path

import pytest
import torch

from liveavatar.training import runtime
from liveavatar.training.sharded import memory, report
from liveavatar.training.sharded.report import Measured
from tests.training.sharded.test_memory import WHOLE

TIMES = [(False, 90.0), (False, 80.0), (True, 70.0), (False, 2.0), (False, 4.0), (True, 9.0)]
FACTS = {
    "model": "m", "command": "c", "device": "H200", "torch": "PyTorch 2", "adapters": {"rank": 128, "alpha": 64.0},
    "weights_sha256": "ab", "total_updates": 6,
}  # fmt: skip


def test_first_updates_do_not_count() -> None:
    measured = Measured(updates=TIMES)
    assert measured.of_updates(student=False) == [2.0, 4.0]
    assert measured.per_update == pytest.approx((9 + 2 * 3) / 3)
    assert Measured(updates=TIMES[:1]).per_update == 90.0
    assert Measured().per_update == 0.0


def test_the_page_has_the_figures(tmp_path: Path) -> None:
    measured = Measured({"building": 1.5}, TIMES, [{"fake": 2.0}, {"fake": 1.0}])
    ranks = [{"rank": float(i), "host_gb": 4.0, "allocated_gb": 31.25, "reserved_gb": 33.5} for i in range(8)]
    figures = report.content(WHOLE, measured, ranks, FACTS)
    assert figures["host_gb"] == 32.0
    assert figures["on_paper"]["seconds_per_update"] == pytest.approx(measured.per_update)
    assert figures["on_paper"]["total_gb"] == pytest.approx(sum(memory.memory(WHOLE).values()))
    text = report.write(tmp_path, figures).read_text()
    for words in ("40 layers on 8 x H200", "| update, mean | 5.0 |", "| 7 | 31.25 | 33.5 |", "It fits", "building"):
        assert words in text, words
    assert (tmp_path / "distill_sharded.json").is_file()


def test_a_digest_is_of_names_and_bits(lone_rank: runtime.TrainRank) -> None:
    tensors = {"a": torch.ones(3), "b": torch.zeros(2)}
    one = report.weights_sha256(tensors, lone_rank)
    assert report.weights_sha256(dict(reversed(tensors.items())), lone_rank) == one
    assert report.weights_sha256(tensors | {"b": torch.tensor([0.0, -0.0])}, lone_rank) != one
    assert report.weights_sha256({"a": tensors["a"], "c": tensors["b"]}, lone_rank) != one


def test_host_memory_is_this_process(lone_rank: runtime.TrainRank) -> None:
    own = report.rank_memory(lone_rank)
    assert 0.05 < own["host_gb"] < 50
    assert report.gather(own["rank"], lone_rank) == [0.0]

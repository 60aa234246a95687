"""Differences and verdicts of parts; lines, JSON and exit status say the same."""

import json
import math
from pathlib import Path

import pytest
import torch

from liveavatar import parity
from liveavatar.errors import InputError
from liveavatar.parity.report import Comparison, Part, exit_code, skipped, to_json, to_lines


def test_the_largest_difference_counts() -> None:
    result = Comparison()
    result.add("near", torch.ones(3), torch.tensor([1.0, 1.5, 1.0]))
    result.add("far", torch.ones(2), torch.tensor([1.0, -1.0]))
    result.add("same", torch.ones(2), torch.ones(2))
    part = result.part("p", 1.0)
    assert (part.max_abs_difference, part.ok, part.detail) == (2.0, False, "worst of 3: far")
    assert result.part("p", 2.0).ok, "the tolerance itself is within"


@pytest.mark.parametrize(
    ("ours", "expected", "note"),
    [
        pytest.param(torch.ones(2), torch.ones(3), "t: shape (2,), expected (3,)", id="another shape"),
        pytest.param(torch.tensor([1.0, math.nan]), torch.ones(2), "worst of 1: t", id="not a number"),
        pytest.param(torch.ones(1), torch.tensor([math.inf]), "worst of 1: t", id="infinite"),
    ],
)
def test_what_cannot_be_compared_is_infinitely_far(ours: torch.Tensor, expected: torch.Tensor, note: str) -> None:
    result = Comparison()
    result.add("t", ours, expected)
    part = result.part("p", 1e9)
    assert (part.max_abs_difference, part.ok, part.detail) == (math.inf, False, note)
    assert json.loads(to_json([part]))[0]["max_abs_difference"] == "inf"


def test_differences_are_taken_in_double() -> None:
    result = Comparison()
    result.add("t", torch.tensor([2**24]), torch.tensor([2**24 + 1]))
    assert result.worst == 1.0


def test_a_part_without_tensors_was_not_checked() -> None:
    part = Comparison().part("p", 1.0)
    assert (part.ok, part.max_abs_difference) == (None, None)
    assert part.detail.startswith("skipped: the set holds no tensor")


def passed(ok: bool) -> Part:
    return Part(name="p", max_abs_difference=0.0, tolerance=1.0, ok=ok, detail="")


@pytest.mark.parametrize(
    ("parts", "code"),
    [([passed(True), skipped("s", 1.0, "r")], 0), ([passed(True), passed(False)], 1)],
    ids=["skipped parts do not matter", "one failure"],
)
def test_exit_code(parts: list[Part], code: int) -> None:
    assert exit_code(parts) == code


def test_nothing_checked_is_no_success() -> None:
    with pytest.raises(InputError, match="holds no parity fixture"):
        exit_code([skipped("s", 1.0, "r")])


def test_lines_are_aligned_and_say_why() -> None:
    far = Part(name="far", max_abs_difference=0.25, tolerance=1e-5, ok=False, detail="worst of 1: x")
    lines = to_lines([passed(True), far, skipped("s", 1.0, "no file")]).splitlines()
    assert lines[0].split() == ["p", "0.00e+00", "1e+00", "ok"]
    assert lines[1].split(maxsplit=4) == ["far", "2.50e-01", "1e-05", "FAILED", "worst of 1: x"]
    assert lines[2].split(maxsplit=4)[3:] == ["skipped", "skipped: no file"]
    assert len({line.index(word) for line, word in zip(lines, ("ok", "FAILED", "skipped"), strict=True)}) == 1


def test_lines_and_json_say_the_same(trimmed: Path) -> None:
    (trimmed / "dit_inputs.safetensors").unlink()
    parts = parity.run_parity(trimmed)
    lines = parity.to_lines(parts).splitlines()
    rows = json.loads(parity.to_json(parts))
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    skipped = next(row for row in rows if row["name"] == "dit.exactrope.stream")
    assert skipped["skipped"]
    assert "dit_inputs" in skipped["detail"]

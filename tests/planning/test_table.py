"""Table of plans: the article's sizes by steps, as a plan of each says, and the steps to take."""

import json
from dataclasses import replace
from typing import Any

import pytest

from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.planning.plan import plan
from liveavatar.planning.table import STEPS, TableRow, advise, as_data, plan_table, table_sizes
from tests.planning.requests import machine, request_14b

ROW = TableRow(asked="704*384", size="704*384", steps=4, fits=True, in_8_bits=True, offload=False, placement="single",
               gib=40.0, fps=20.0, reason="")  # fmt: skip


def test_a_cell_is_the_plan_of_its_size_and_steps() -> None:
    here, asked = machine("2xH200"), request_14b((384, 256), fp8=True)
    rows, advice = plan_table(LIVE_AVATAR_14B, asked, here)
    assert [row.asked for row in rows[:: len(STEPS)]] == ["384*256", "688*368", "704*384", "720*400"]
    assert [one.asked for one in advice] == [row.asked for row in rows[:: len(STEPS)]]
    for row in rows:
        width, height = (int(side) for side in row.size.split("*"))
        cell = asked.changed(width=width, height=height, sample_steps=row.steps)
        planned = plan(LIVE_AVATAR_14B, cell, here)
        assert (row.fits, row.fps, row.placement) == (planned.fits, planned.fps, planned.placement)
        assert row.gib == max(load.total for load in planned.per_gpu_gb)
    moved = {row.asked: row.size for row in rows}
    assert moved == {"384*256": "384*256", "688*368": "640*384", "704*384": "704*384", "720*400": "704*384"}
    assert json.loads(json.dumps(as_data(rows, advice)))["rows"][0]["fps"] == pytest.approx(rows[0].fps, abs=0.01)


@pytest.mark.parametrize(
    ("gpus", "options", "fits", "eight_bit", "offload"),
    [
        pytest.param("1xH200", {}, True, False, False, id="in bf16"),
        pytest.param("1x32GB", {}, True, True, False, id="only in 8 bits"),
        pytest.param("1x24GB", {}, True, True, True, id="only with weights in host memory, too"),
        pytest.param("1x9GB", {}, True, True, True, id="only with keys and values in host memory, too"),
        pytest.param("1x6GB", {}, False, True, True, id="in no way"),
        pytest.param("2x16GB", {"placement": "tpp"}, False, True, False, id="a group keeps its weights"),
        pytest.param("1xA100-40GB", {}, True, False, True, id="no 8-bit unit"),
    ],
)
def test_a_cell_that_does_not_fit_as_asked_is_tried_in_other_ways(
    gpus: str, options: dict[str, Any], fits: bool, eight_bit: bool, offload: bool
) -> None:
    row = plan_table(LIVE_AVATAR_14B, request_14b((384, 256), **options), machine(gpus))[0][0]
    assert (row.fits, row.in_8_bits, row.offload, bool(row.reason)) == (fits, eight_bit, offload, not fits)


def row(steps: int, fps: float, fits: bool = True) -> TableRow:
    return replace(ROW, steps=steps, fps=fps, fits=fits, reason="" if fits else "too large")


@pytest.mark.parametrize(
    ("rows", "steps", "why"),
    [
        pytest.param([row(3, 40), row(4, 30)], 4, "distilled for 4, and 30.0 frames/s are live", id="live"),
        pytest.param(
            [row(3, 25), row(4, 20)], 3, "live, which 4 steps with 20.0 frames/s are not", id="fewer are live"
        ),
        pytest.param([row(3, 12), row(4, 10)], 4, "no number of steps is live here", id="none is live"),
        pytest.param(
            [row(3, 12), replace(row(4, 5), offload=True)],
            4,
            "3 without offload come nearest with 12.0 frames/s against 5.0",
            id="fewer need no offload",
        ),
        pytest.param([row(3, 12), row(4, 10, fits=False)], 3, "4 steps do not fit", id="fewer fit"),
        pytest.param([row(3, 1, False), row(4, 1, False)], None, "nothing fits, with --fp8: too large", id="none fits"),
    ],
)
def test_the_steps_to_take(rows: list[TableRow], steps: int | None, why: str) -> None:
    advice = advise("704*384", rows)
    assert advice.steps == steps
    assert why in advice.why


def test_a_model_of_listed_sizes_has_its_own() -> None:
    assert table_sizes(MINI) == ((384, 256),)
    assert len(table_sizes(LIVE_AVATAR_14B)) == 4

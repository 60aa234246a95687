"""Every limit of the verdict by value: just inside and just outside, on both sides, with the expected grade.

The numbers are written down here a second time on purpose: whoever moves a limit must say so in two places.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from liveavatar.errors import InputError
from liveavatar.files import read_json, write_json
from liveavatar.paths import REPO_ROOT
from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.grades import grades
from liveavatar.quality.limits import (
    DEFAULT_FILE,
    METRIC_LIMITS,
    ROW_LIMITS,
    as_file,
    limits_for,
    read_limits,
)
from liveavatar.quality.suites import judge
from tests.quality.results import GOOD_ROW, SECONDS, result

EDGES = ("fails below", "warns below", "passes from", "passes up to", "warns above", "fails above")
GRADES = ("failed", "warned", "passed", "passed", "warned", "failed")
_ = None  # no limit on that side
TABLE: dict[str, tuple[float | None, ...]] = {
    # ITU-R BT.1359 allows late sound (negative) more than early sound: a mirrored limit must not pass.
    "av_offset_frames": (-5, -4, -3, 1, 2, 3),
    "av_correlation": (0.299, 0.379, 0.381, _, _, _),
    "sync_error_frames": (_, _, _, 1.59, 1.61, 2.31),
    "lip_sync": (_, _, _, 0.329, 0.331, 0.421),
    "openness_range": (0.0249, 0.0499, 0.0501, _, _, _),
    "silent_lip": (_, _, _, 0.044, 0.046, 0.101),
    "silent_openness": (_, _, _, 0.549, 0.551, 0.701),
    "identity_min": (0.599, 0.699, 0.701, _, _, _),
    "texture_psnr": (13.9, 18.9, 19.1, _, _, _),
    "sharpness_ratio": (0.399, 0.699, 0.701, 1.49, 1.51, 2.51),
    "flicker": (0.934, 0.954, 0.956, _, _, _),
    "jerk_index": (_, _, _, 2.49, 2.51, 6.01),
    "motion_energy": (0.019, 0.059, 0.061, 2.99, 3.01, 6.01),
    "repeated_frames": (_, _, _, 6, 7, 26),
    "edge_jump": (_, _, _, 1.99, 2.01, 4.01),
    "dropped_frames": (_, _, _, 0, 1, 3),
    "duration_error_s": (-0.51, -0.046, -0.044, 0.044, 0.046, 0.51),
    "track_length_error_s": (-0.51, -0.046, -0.044, 0.044, 0.046, 0.51),
    "face_share": (0.899, 0.979, 0.981, _, _, _),
    "identity_drift": (-0.251, -0.101, -0.099, _, _, _),
    "pause_frames": (_, _, _, 4, 5, 10),
    "repeat_share": (_, _, _, 0.089, 0.091, 0.151),
    "still_s": (_, _, _, 0.799, 0.801, 1.001),
    "mouth_still_s": (_, _, _, 0.899, 0.901, 1.201),
    "silent_speech": (_, _, _, 0.041, 0.043, 0.053),
    "sync_slip": (_, _, _, 0.079, 0.081, 0.151),
    "sync_worst": (0.199, 0.299, 0.301, _, _, _),
    "clipped_share": (_, _, _, 0.029, 0.031, 0.081),
    "luma_pulse": (_, _, _, 3.999, 4.001, 6.001),
    "luma_drift": (_, _, _, 9.9, 10.1, 20.1),
    "change_pulse": (_, _, _, 1.699, 1.701, 2.301),
    "green_shift": (-0.111, -0.081, -0.079, 0.079, 0.081, 0.111),
    "warm_shift": (-0.651, -0.451, -0.449, 0.449, 0.451, 0.651),
    "saturation_ratio": (0.299, 0.499, 0.501, 1.799, 1.801, 2.501),
    "colour_drift": (_, _, _, 0.079, 0.081, 0.151),
    "spot_step": (_, _, _, 19.9, 20.1, 23.1),
    "spots": (_, _, _, 47.9, 48.1, 70.1),
    "spots_rise": (_, _, _, 14.9, 15.1, 22.1),
    "half_likeness": (0.599, 0.799, 0.801, _, _, _),
    "stretch": (-0.111, -0.081, -0.079, 0.079, 0.081, 0.111),
    "tilt_deg": (-14.1, -9.001, -8.999, 8.999, 9.001, 14.1),
    "bars": (_, _, _, 0.019, 0.021, 0.041),
    "lattice": (_, _, _, 0.749, 0.751, 0.901),
    "skin_tints": (_, _, _, 12.9, 13.1, 16.1),
    "flicker_worst": (0.934, 0.954, 0.956, _, _, _),
    "jerk_worst": (_, _, _, 3.499, 3.501, 6.001),
    "sharpness_step": (_, _, _, 0.349, 0.351, 0.551),
    "muted_s": (_, _, _, 0.499, 0.501, 0.801),
    "identity_loss": (_, _, _, 0.079, 0.081, 0.151),
}
ONE = 1e-6  # share that is a single row
SHARES = ("passed", "warned", "warned", "failed")
# Column: values just below, just inside at both ends and just above its range; shares of bad rows just inside and just
# outside what is good, and what is tolerable.
ROWS: dict[str, tuple[tuple[float | None, float, float, float | None], tuple[float, float, float, float]]] = {
    "frames.luminance": ((5.9, 6.1, 249.9, 250.1), (0.0, ONE, 0.009, 0.012)),
    "frames.openness": ((-0.01, 0.01, 1.19, 1.21), (0.009, 0.012, 0.048, 0.052)),
    "blocks.face_share": ((0.49, 0.51, 0.99, _), (0.0, ONE, 0.048, 0.052)),
    "blocks.identity": ((0.49, 0.51, 0.99, 1.01), (0.048, 0.052, 0.198, 0.202)),
    "blocks.sharpness_ratio": ((0.299, 0.301, 2.99, 3.01), (0.0, ONE, 0.048, 0.052)),
}


def test_every_limit_is_in_the_table() -> None:
    assert {limit.name for limit in METRIC_LIMITS} == TABLE.keys()
    assert {limit.name for limit in ROW_LIMITS} == ROWS.keys()
    for limit in limits_for(result({})):
        closed = (limit.tolerable[0], limit.good[0], limit.good[0], limit.good[1], limit.good[1], limit.tolerable[1])
        assert [edge is None for edge in closed] == [value is None for value in TABLE[limit.name]], limit.name


@pytest.mark.parametrize("edge", range(6), ids=EDGES)
def test_the_grade_of_every_metric(edge: int) -> None:
    values = {name: row[edge] for name, row in TABLE.items()}
    wanted = {name: GRADES[edge] for name, value in values.items() if value is not None}
    checks = {check.name: check.status for check in judge(result(values)).checks}
    assert {name: checks[name] for name in wanted} == wanted
    found = grades(result(values))
    assert {name: found[name] for name in wanted} == wanted, "the bench grades as the suites do"


def column_tables(values: dict[str, tuple[float, float]]) -> dict[str, pd.DataFrame]:
    """Build tables of good rows with a value in a share of the rows, for each column."""
    tables = {"frames": pd.DataFrame([GOOD_ROW] * (SECONDS * 25)), "blocks": pd.DataFrame([GOOD_ROW] * 500)}
    for name, (value, share) in values.items():
        table, column = name.split(".")
        rows = tables[table]
        rows.loc[np.arange(len(rows)) < share * len(rows), column] = value
    return tables


@pytest.mark.parametrize("end", [1, 2], ids=["low", "high"])
def test_values_inside_the_range_of_a_column_pass(end: int) -> None:
    checks = judge(result({}, **column_tables({name: (values[end], 1.0) for name, (values, _) in ROWS.items()}))).checks
    found = {check.name: check.status for check in checks}
    assert {name: found[name] for name in ROWS} == dict.fromkeys(ROWS, "passed")


@pytest.mark.parametrize(("share", "grade"), enumerate(SHARES))
@pytest.mark.parametrize("end", [0, 3], ids=["below", "above"])
def test_the_grade_of_every_column(share: int, grade: str, end: int) -> None:
    bad = {n: (value, shares[share]) for n, (values, shares) in ROWS.items() if (value := values[end]) is not None}
    tables = column_tables(bad)
    checks = {check.name: check.status for check in judge(result({}, **tables)).checks}
    wanted = dict.fromkeys(bad, grade)
    assert {n: checks[n] for n in wanted} == wanted
    assert {n: grades(result({}, **tables))[n] for n in wanted} == wanted


@pytest.mark.parametrize(
    ("seconds", "good", "tolerable"),
    [
        pytest.param(15, -0.4, -1.0, id="a quarter: as much in all as a minute"),
        pytest.param(30, -0.2, -0.5, id="half a minute"),
        pytest.param(60, -0.1, -0.25, id="a minute"),
        pytest.param(90, -0.1, -0.25, id="longer: the same per minute"),
        pytest.param(600, -0.1, -0.25, id="ten minutes"),
    ],
)
def test_the_drift_of_identity_by_length(seconds: int, good: float, tolerable: float) -> None:
    frames = pd.DataFrame([GOOD_ROW] * (seconds * 25))
    drift = next(limit for limit in limits_for(result({}, frames)) if limit.name == "identity_drift")
    assert (drift.good, drift.tolerable) == (pytest.approx((good, None)), pytest.approx((tolerable, None)))


def test_without_speech_the_lips_are_not_judged() -> None:
    silent = QualityResult({}, {}, {}, *(result({}).frames,) * 2, result({}).video, has_speech=False)
    speech_only = {"av_offset_frames", "av_correlation", "sync_error_frames", "lip_sync", "openness_range"}
    speech_only |= {"mouth_still_s", "sync_slip", "sync_worst", "muted_s"}
    assert TABLE.keys() - {limit.name for limit in limits_for(silent)} == speech_only | {"silent_openness"}


def test_the_file_that_users_copy_holds_the_limits() -> None:
    assert read_json(REPO_ROOT / DEFAULT_FILE) == as_file(METRIC_LIMITS)
    assert read_limits(REPO_ROOT / DEFAULT_FILE) == METRIC_LIMITS


def test_a_file_changes_the_limits_that_it_names(tmp_path: Path) -> None:
    write_json(tmp_path / "mine.json", {"flicker": {"good": [0.99, None], "tolerable": [0.98, None]}})
    limits = {limit.name: limit for limit in read_limits(tmp_path / "mine.json")}
    assert (limits["flicker"].good, limits["flicker"].tolerable) == ((0.99, None), (0.98, None))
    assert len(limits) == len(METRIC_LIMITS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param([1], "it is no table", id="a list"),
        pytest.param({"flickr": {}}, "unknown metrics flickr", id="a misspelt metric"),
        pytest.param({"flicker": {"good": [0.9, None]}}, 'give {"good"', id="a range is missing"),
        pytest.param({"flicker": {"good": [0.9], "tolerable": [0.8, None]}}, "two numbers", id="one end"),
        pytest.param({"flicker": {"good": ["x", None], "tolerable": [0.8, None]}}, "two numbers", id="a word"),
        pytest.param({"flicker": {"good": [2, 1], "tolerable": [0, 3]}}, "above the high end", id="ends swapped"),
        pytest.param({"flicker": {"good": [0.7, None], "tolerable": [0.8, None]}}, "the wider one", id="inside out"),
        pytest.param({"flicker": {"good": [None, 1], "tolerable": [0.8, 1]}}, "the wider one", id="open inside"),
    ],
)
def test_a_wrong_limits_file_is_refused_in_one_line(content: object, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "mine.json", content)
    with pytest.raises(InputError, match=r"--limits .*mine\.json") as error:
        read_limits(tmp_path / "mine.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_limits_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=DEFAULT_FILE):
        read_limits(tmp_path / "none.json")

"""Every limit of the verdict by value: just inside and just outside, on both sides, with the expected grade.

The numbers are written down here a second time on purpose: whoever moves a limit must say so in two places.
"""

import numpy as np
import pandas as pd
import pytest

from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.limits import LIMITS, ROW_LIMITS, limits_for
from liveavatar.quality.suites import judge
from tests.quality.results import GOOD_ROW, SECONDS, result

EDGES = ("fails below", "warns below", "passes from", "passes up to", "warns above", "fails above")
GRADES = ("failed", "warned", "passed", "passed", "warned", "failed")
_ = None  # no limit on that side
TABLE: dict[str, tuple[float | None, ...]] = {
    # ITU-R BT.1359 allows late sound (negative) more than early sound: a mirrored limit must not pass.
    "av_offset_frames": (-5, -4, -3, 1, 2, 3),
    "av_correlation": (0.299, 0.379, 0.381, _, _, _),
    "sync_error_frames": (_, _, _, 2.19, 2.21, 3.51),
    "lip_sync": (_, _, _, 0.329, 0.331, 0.421),
    "openness_range": (0.0249, 0.0499, 0.0501, _, _, _),
    "silent_lip": (_, _, _, 0.039, 0.041, 0.101),
    "silent_openness": (_, _, _, 0.399, 0.401, 0.701),
    "identity_min": (0.499, 0.659, 0.661, _, _, _),
    "texture_psnr": (13.9, 18.9, 19.1, _, _, _),
    "sharpness_ratio": (0.399, 0.699, 0.701, 1.49, 1.51, 2.51),
    "flicker": (0.919, 0.954, 0.956, _, _, _),
    "jerk_index": (_, _, _, 2.49, 2.51, 6.01),
    "motion_energy": (0.019, 0.059, 0.061, 2.99, 3.01, 6.01),
    "repeated_frames": (_, _, _, 6, 7, 26),
    "edge_jump": (_, _, _, 1.99, 2.01, 4.01),
    "dropped_frames": (_, _, _, 0, 1, 3),
    "duration_error_s": (-0.51, -0.046, -0.044, 0.044, 0.046, 0.51),
    "track_length_error_s": (-0.51, -0.046, -0.044, 0.044, 0.046, 0.51),
    "face_share": (0.899, 0.979, 0.981, _, _, _),
    "identity_drift": (-0.251, -0.101, -0.099, _, _, _),
}
# Column: a value below and above its range, and shares of bad rows that pass, warn and fail.
ROWS: dict[str, tuple[float | None, float | None, tuple[float, float, float]]] = {
    "frames.luminance": (5.9, 250.1, (0.0, 0.009, 0.012)),
    "frames.openness": (-0.01, 1.21, (0.009, 0.012, 0.06)),
    "blocks.face_share": (0.49, _, (0.0, 0.04, 0.06)),
    "blocks.identity": (0.49, 1.01, (0.04, 0.06, 0.21)),
    "blocks.sharpness_ratio": (0.299, 3.01, (0.0, 0.04, 0.06)),
}


def test_every_limit_is_in_the_table() -> None:
    assert {limit.name for limit in LIMITS} | {"identity_drift"} == TABLE.keys()
    assert {limit.name for limit in ROW_LIMITS} == ROWS.keys()
    for limit in limits_for(result({})):
        closed = (limit.tolerable[0], limit.good[0], limit.good[0], limit.good[1], limit.good[1], limit.tolerable[1])
        assert [edge is None for edge in closed] == [value is None for value in TABLE[limit.name]], limit.name


@pytest.mark.parametrize("edge", range(6), ids=EDGES)
def test_the_grade_of_every_metric(edge: int) -> None:
    values = {name: row[edge] for name, row in TABLE.items()}
    grades = {check.name: check.status for check in judge(result(values)).checks if values.get(check.name) is not None}
    assert grades == {name: GRADES[edge] for name, value in values.items() if value is not None}


@pytest.mark.parametrize(("share", "grade"), enumerate(("passed", "warned", "failed")))
@pytest.mark.parametrize("above", [False, True], ids=["below", "above"])
def test_the_grade_of_every_column(share: int, grade: str, above: bool) -> None:
    tables = {"frames": pd.DataFrame([GOOD_ROW] * (SECONDS * 25)), "blocks": pd.DataFrame([GOOD_ROW] * 500)}
    bad = {name: row[above] for name, row in ROWS.items()}
    for name, value in bad.items():
        table, column = name.split(".")
        if value is not None:
            rows = tables[table]
            rows.loc[np.arange(len(rows)) < ROWS[name][2][share] * len(rows), column] = value
    checks = {check.name: check.status for check in judge(result({}, **tables)).checks}
    assert {n: checks[n] for n in ROWS if bad[n] is not None} == {n: grade for n in ROWS if bad[n] is not None}


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
    assert TABLE.keys() - {limit.name for limit in limits_for(silent)} == speech_only | {"silent_openness"}

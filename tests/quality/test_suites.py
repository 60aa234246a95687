"""The verdict is the worst of its checks; a missing measure counts as what kept it from being measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from liveavatar.quality.absence import Absence
from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.limit import Limit
from liveavatar.quality.limits import METRIC_LIMITS
from liveavatar.quality.suites import Check, Verdict, judge
from tests.quality.results import result

GOOD: dict[str, float | None] = {
    limit.name: next(edge for edge in limit.good if edge is not None) for limit in METRIC_LIMITS
} | {"identity_drift": 0.0}
MISSING = {
    "identity_drift": Absence.NOT_APPLICABLE, "lip_sync": Absence.NOT_POSSIBLE, "silent_lip": Absence.FAULT,
}  # fmt: skip


@pytest.fixture(scope="module")
def faulty() -> QualityResult:
    """Measures of a video with every kind of fault."""
    sound = {"dnsmos_before": 3.0, "dnsmos_after": 2.89, "wer_before": 0.1, "wer_after": 0.151}
    measured = result(GOOD | dict.fromkeys(MISSING) | sound | {"sync_error_frames": 2.0})
    blocks = measured.blocks.copy()
    blocks.loc[blocks.index < 60, "identity"] = 0.1  # of 500
    reasons = dict.fromkeys(MISSING, "because")
    return replace(measured, reasons=reasons, absences=MISSING, blocks=blocks)


@pytest.fixture(scope="module")
def bad(faulty: QualityResult) -> Verdict:
    """The verdict on it; judging takes a second."""
    return judge(faulty)


def limits_of(*names: str) -> tuple[Limit, ...]:
    """The limits of a few measures: judging by them all takes a second."""
    return tuple(limit for limit in METRIC_LIMITS if limit.name in names)


def check(verdict: Verdict, name: str) -> Check:
    return next(c for c in verdict.checks if c.name == name)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        pytest.param("identity_drift", "skipped", id="rightly nothing to measure"),
        pytest.param("lip_sync", "failed", id="a model is missing"),
        pytest.param("silent_lip", "failed", id="the video lacks it"),
    ],
)
def test_a_missing_measure_is_graded_by_its_reason(name: str, status: str, bad: Verdict) -> None:
    found = check(bad, name)
    assert (found.status, found.value, found.reason) == (status, None, "because")


def test_the_worst_check_decides(bad: Verdict) -> None:
    assert bad.status == "failed"
    assert bad.as_dict()["status"] == "failed"
    assert bad.as_dict()["headline"] == "silent_lip cannot be judged: because"
    assert bad.as_dict()["checks"][0].keys() == {"name", "status", "value", "limit", "reason"}


def test_a_measure_outside_its_range_is_compared_with_it(bad: Verdict) -> None:
    found = check(bad, "sync_error_frames")
    assert (found.status, found.limit) == ("warned", "at most 1.6; fails unless at most 2.3")
    assert found.reason.startswith("2 is not at most 1.6 (good videos up to 1.4")
    assert check(bad, "av_offset_frames").limit == "-3 to 1; fails unless -4 to 2"
    assert check(bad, "identity_min").reason.startswith("ground truth"), "what passes names its source"


def test_a_column_is_judged_by_its_share_of_good_rows(bad: Verdict) -> None:
    found = check(bad, "blocks.identity")
    assert (found.status, found.value) == ("warned", pytest.approx(0.88))
    assert found.reason.startswith("only 88.0% of the blocks")
    assert found.limit == "0.5 to 1.001 in 95% of blocks; fails under 80%"


def test_cleaning_that_harms_is_warned_of(bad: Verdict) -> None:
    assert (check(bad, "dnsmos_after").status, check(bad, "wer_after").status) == ("warned", "warned")
    assert check(bad, "dnsmos_after").reason == "3 before, 2.89 after"


def test_the_verdict_is_the_same_without_the_suites(faulty: QualityResult, bad: Verdict) -> None:
    direct = judge(faulty, expectations=False)
    assert (direct.status, direct.headline) == (bad.status, bad.headline)
    for one, other in zip(direct.checks, bad.checks, strict=True):
        assert replace(one, value=None) == replace(other, value=None)
        assert one.value == pytest.approx(other.value)


def test_a_good_video_passes_and_its_data_docs_are_written(tmp_path: Path) -> None:
    within = {"dnsmos_before": 3.0, "dnsmos_after": 2.91, "wer_before": 0.1, "wer_after": None}
    verdict = judge(result(GOOD | within), tmp_path / "docs")
    assert verdict.status == "passed"
    assert (check(verdict, "dnsmos_after").status, check(verdict, "wer_after").status) == ("passed", "skipped")
    index = (tmp_path / "docs" / "index.html").read_text()
    target = index.split("url=")[1].split('"')[0]
    assert "Validation Results" in (tmp_path / "docs" / target).read_text()


def test_what_cannot_be_judged_warns_when_the_user_allows_it() -> None:
    measured = replace(
        result(GOOD | dict.fromkeys(MISSING)), reasons=dict.fromkeys(MISSING, "because"), absences=MISSING
    )
    verdict = judge(measured, limits=limits_of(*MISSING), allow_unjudged=True)
    assert {name: check(verdict, name).status for name in MISSING} == {
        "identity_drift": "skipped", "lip_sync": "warned", "silent_lip": "failed",
    }  # fmt: skip
    assert verdict.headline == "silent_lip cannot be judged: because"


def test_a_video_that_fell_apart_fails_whatever_is_left_of_it() -> None:
    found = {"seconds": 42.0, "reason": "from 42 s on the face has lost its detail"}
    verdict = judge(result(GOOD), limits=limits_of("flicker"), collapse=found)
    assert (verdict.status, check(verdict, "collapse").reason) == ("failed", found["reason"])
    assert verdict.headline.startswith("the picture fell apart at 42 s and did not come back; the video ends there; ")


def test_a_video_of_a_moment_is_too_short_to_judge() -> None:
    measured = result(GOOD)
    few = limits_of("flicker")
    verdict = judge(replace(measured, frames=measured.frames[:8]), limits=few)
    assert (verdict.status, check(verdict, "length").value) == ("warned", 0.32)
    assert verdict.headline == "the video is too short to judge: 0.32 s; give one of at least 1 s"
    assert "length" not in {c.name for c in judge(measured, limits=few).checks}


def test_the_second_where_a_measure_is_worst_is_said() -> None:
    measured = replace(result(GOOD | {"luma_pulse": 40.0}), worst_seconds={"luma_pulse": 7.2})
    found = check(judge(measured, limits=limits_of("luma_pulse")), "luma_pulse")
    assert found.reason.startswith("40 is not at most 4, worst at 7.2 s (")


def test_other_limits_give_another_verdict() -> None:
    measured = result(GOOD)
    strict = tuple(replace(limit, good=(0.99, None), tolerable=(0.98, None)) for limit in limits_of("flicker"))
    assert [c.status for c in judge(measured, limits=strict).checks if c.name == strict[0].name] == ["failed"]

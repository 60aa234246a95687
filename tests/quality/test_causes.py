"""The line that leads a verdict: the cause first, its size, its second, the way out."""

import pytest

from liveavatar.quality.causes import CAUSES, headline
from liveavatar.quality.limits import METRIC_LIMITS, ROW_LIMITS


@pytest.mark.parametrize(
    ("grades", "values", "words"),
    [
        pytest.param({"flicker": "passed"}, {"flicker": 0.99}, "", id="nothing is wrong"),
        pytest.param(
            {"lip_sync": "warned", "av_offset_frames": "failed"}, {"lip_sync": 0.4, "av_offset_frames": 3},
            "the picture is 3 frames (0.12 s) late against the sound at 4.2 s; likely", id="what failed leads",
        ),
        pytest.param(
            {"sync_error_frames": "failed", "av_correlation": "failed"},
            {"sync_error_frames": 5, "av_correlation": 0.1},
            "these lips do not belong to this sound", id="the cause leads its symptoms",
        ),
        pytest.param(
            {"av_offset_frames": "failed", "av_correlation": "warned"},
            {"av_offset_frames": 7, "av_correlation": 0.37},
            "these lips do not belong to this sound", id="a time is no cause when nothing agrees",
        ),
        pytest.param(
            {"identity_min": "failed"}, {"identity_min": None}, "identity_min cannot be judged: no portrait",
            id="what has no value",
        ),
        pytest.param({"unheard_of": "failed"}, {"unheard_of": 2.0}, "unheard_of is 2", id="a check without words"),
    ],
)  # fmt: skip
def test_one_line_leads(grades: dict[str, str], values: dict[str, float | None], words: str) -> None:
    line = headline(grades, values, {"identity_min": "no portrait"}, {"av_offset_frames": 4.2})
    assert line.startswith(words)
    assert bool(line) == bool(words)


def test_every_check_has_words_that_take_its_value() -> None:
    known = {cause.check for cause in CAUSES}
    checks = {limit.name for limit in METRIC_LIMITS} | {limit.name for limit in ROW_LIMITS}
    assert checks - known == {"silent_openness", "blocks.identity", "frames.openness"}
    for cause in CAUSES:
        assert cause.says(-0.5) != cause.says(1.5) or cause.check == "jerk_index", cause.check

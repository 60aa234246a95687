"""Words of the report page: every check has a title, every number reads well."""

import pytest

from liveavatar.quality.evaluate import EXTRA_METRICS, METRICS
from liveavatar.quality.limits import METRIC_LIMITS, ROW_LIMITS
from liveavatar.report import wording
from liveavatar.report.wording import number


def test_every_measure_and_check_has_words() -> None:
    checks = {limit.name for limit in (*METRIC_LIMITS, *ROW_LIMITS)}
    assert {*METRICS, *EXTRA_METRICS, *checks} <= set(wording.MEASURES)
    assert all(wording.fault(name) for name in checks), "a producer is told what is seen"
    titles = [known.title for known in (*wording.MEASURES.values(), *wording.TIMINGS.values())]
    assert not [title for title in titles if "_" in title]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, "-", id="nothing"),
        pytest.param(True, "yes", id="yes"),
        pytest.param(3, "3", id="a count"),
        pytest.param(0.123456, "0.123", id="three digits"),
        pytest.param(1234.5678, "1235", id="whole from 100"),
        pytest.param(0.0000123, "0.000012", id="no exponent"),
        pytest.param(float("nan"), "-", id="no number"),
        pytest.param("words", "words", id="text"),
    ],
)
def test_numbers_read_well(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("av_offset_frames", 0, "in time"),
        ("av_offset_frames", 2, "2 frames (80 ms) late"),
        ("av_offset_frames", -1, "1 frame (40 ms) early"),
        ("sync_error_frames", 0.2222, "0.2 frames (9 ms)"),
        ("identity_min", 0.9589, "96 %"),
        ("flicker", 0.9959, "99.6 %"),
        ("face_share", 1.0, "100 %"),
        ("texture_psnr", 31.8205, "31.8"),
        ("identity_min", None, "-"),
        ("another_measure", 0.5, "0.5"),
    ],
)
def test_values_have_units(name: str, value: float | None, text: str) -> None:
    assert wording.value_of(name, value) == text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("ttff_s", 7.3333, ("7.33 s", "to the first picture")),
        ("block_ms_p99", 9149.8, ("9.15 s", "for half a second of video, at worst")),
        ("block_ms_p50", 356.4, ("356 ms", "for half a second of video, usually")),
        ("cached_tasks", 3, ("3", "of 8 steps were known from before")),
        ("new_timing_s", 1.5, ("1.5", "new timing s")),
        ("ttff_s", None, ("-", "to the first picture")),
    ],
)
def test_timings_have_names(name: str, value: float | None, shown: tuple[str, str]) -> None:
    assert wording.timing(name, value) == shown


def test_names_of_the_report_are_written_in_words() -> None:
    assert wording.plain_name("inputs.audio.sha256") == "inputs, audio, digest"
    assert wording.title("av_offset_frames") == "Lips against the sound"
    assert wording.title("my_check") == "my check"
    assert wording.fault("my_check") == ""

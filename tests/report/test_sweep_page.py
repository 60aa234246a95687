"""Page of a sweep: charts one can read, in words, safe against its own content."""

import itertools
import re
from pathlib import Path

import pytest

from liveavatar.report.sweep_page import CHARTED, LETTER, LINE, chart, spread, sweep_page
from tests.browser import browser, needs_chromium, wait_for

COLOURS = {"384*256": "var(--a)", "512*768": "var(--b)"}


def rows(**more: object) -> list[dict[str, object]]:
    """Make the rows of two sizes and four numbers of steps."""
    return [
        {"steps": steps, "size": size, "sync_error_frames": 1 / steps + n / 50, "texture_psnr": 28.0 + steps / 9 + n,
         "jerk_index": 1.0, "ms_per_frame": 40.0 * steps * (1 + n), "fps": 25 / steps, "ttff_s": 0.8,
         "status": "passed", **more}
        for n, size in enumerate(COLOURS)
        for steps in (1, 2, 3, 4)
    ]  # fmt: skip


def test_each_size_has_its_colour_and_each_step_one_tick() -> None:
    drawn = chart("ms_per_frame", rows(), COLOURS)
    assert re.findall(r"<polyline[^>]* stroke='([^']+)'", drawn) == list(COLOURS.values())
    ticks = re.findall(r"<text x='[\d.]+' y='200' text-anchor='middle'>(\d+)</text>", drawn)
    assert ticks == ["1", "2", "3", "4"]
    assert drawn.count("<circle") == 8
    page = sweep_page(rows(), None)
    assert page.count("<svg") == len(CHARTED)
    assert all(f"</i>{size}</span>" in page for size in COLOURS)


@pytest.mark.parametrize("name", CHARTED)
def test_labels_do_not_lie_on_one_another(name: str) -> None:
    found = re.findall(r"<text x='([\d.]+)' y='([\d.]+)'[^>]*style=[^>]*>([^<]+)<", chart(name, rows(), COLOURS))
    assert len(found) >= 4
    for one, other in itertools.combinations(found, 2):
        apart = abs(float(one[0]) - float(other[0])) >= (len(one[2]) + len(other[2])) * LETTER / 2
        assert apart or abs(float(one[1]) - float(other[1])) >= LINE, (one, other)


def test_a_label_without_room_is_left_out() -> None:
    assert len(spread([(50.0, 100.0, "1.00", "a")] * 3)) == 2, "above and below"


def test_a_measure_without_values_has_no_chart() -> None:
    assert chart("texture_psnr", [{"steps": 1, "size": "384*256", "texture_psnr": None}], COLOURS) == ""
    assert "NaN" not in chart(
        "jerk_index", [*rows(), {"steps": 5, "size": "384*256", "jerk_index": float("nan")}], COLOURS
    )


def test_the_tables_speak_words() -> None:
    page = sweep_page(rows(), [{"size": "384*256", "recommended_steps": 3}])
    shown = re.sub(r" title='[^']*'", "", page)
    for name in ("ttff_s", "sync_error_frames", "recommended_steps", "ms_per_frame"):
        assert name not in shown
    assert "Size and recommended steps" in page
    assert "<script>" not in sweep_page(rows(status="<script>alert(1)</script>"), None)


@needs_chromium
def test_a_phone_shows_it_without_overflow(tmp_path: Path) -> None:
    page = tmp_path / "sweep.html"
    page.write_text(sweep_page(rows(), None))
    with browser(page.as_uri(), tmp_path / "profile") as see:
        see.resize(390, 844)
        wait_for(lambda: see("document.readyState") == "complete")
        assert see.overflow() <= 0

"""The matrix counts what was found; slight faults and good videos stand apart."""

from pathlib import Path

from liveavatar.bench.faults.report import markdown, summary, write_report
from liveavatar.bench.faults.run import Row
from liveavatar.files import read_json


def row(fault: str, status: str, video: str = "00", slight: bool = False, held_out: bool = False) -> Row:
    fired = ("lattice",) if status == "failed" else ()
    return Row(video, fault, 3.0 if fault else 0.0, slight, held_out, status, fired, "")


ROWS = [
    row("", "passed"), row("mosaic", "failed"), row("mosaic", "warned", "01", held_out=True),
    row("green", "passed", held_out=True), row("jitter", "passed", slight=True),
]  # fmt: skip


def test_the_summary_counts_visible_faults_apart() -> None:
    totals = summary(ROWS)
    visible = {"videos": 3, "failed": 1, "warned": 1, "passed": 1, "failed_share": 0.3333, "found_share": 0.6667}
    assert totals["visible"] == visible
    assert (totals["held_out"]["videos"], totals["slight"]["passed"], totals["good"]["passed"]) == (2, 1, 1)


def test_the_matrix_has_a_line_per_fault() -> None:
    page = markdown(ROWS, "Matrix")
    assert "| mosaic 3 | 1 / 1 / 0 | lattice 1 |" in page
    assert "| jitter 3 (slight) | 0 / 0 / 1 |  |" in page
    assert "| none | 0 / 0 / 1 |  |" in page
    assert "| faults that a person sees or hears | 3 | 1 (33.3%) | 1 (33.3%) | 1 (33.3%) |" in page


def test_a_report_is_a_page_and_its_rows(tmp_path: Path) -> None:
    page = write_report(ROWS, tmp_path / "out")
    assert page.read_text().startswith("# Planted faults")
    assert len(read_json(page.with_suffix(".json"))["rows"]) == len(ROWS)

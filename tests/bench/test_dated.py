"""Dated reports: a page and the figures behind it, in a folder that is made."""

from datetime import date
from pathlib import Path

from liveavatar.bench.dated import today, write_dated
from liveavatar.files import read_json


def test_a_page_and_its_figures_are_written(tmp_path: Path) -> None:
    assert date.fromisoformat(today())
    page = write_dated(tmp_path / "new", f"x_{today()}", "# page\n", {"a": 1})
    assert page.name == f"x_{today()}.md"
    assert page.read_text() == "# page\n"
    assert read_json(page.with_suffix(".json")) == {"a": 1}

"""Csv tables as spreadsheets write them: what divides their cells."""

from pathlib import Path

import pytest

from liveavatar.pose.csv_text import read_csv_text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("a,b\n", ("a,b\n", ","), id="commas"),
        pytest.param("a;b,c\n", ("a;b,c\n", ","), id="the first kind counts"),
        pytest.param("sep=;\na;b,c\n", ("a;b,c\n", ";"), id="named"),
        pytest.param("SEP=|\na|b\n", ("a|b\n", "|"), id="of any kind"),
        pytest.param("", ("", ","), id="nothing"),
    ],
)
def test_csv_names_what_divides_its_cells(text: str, found: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert read_csv_text(tmp_path / "a.csv") == found

"""The report of the sound bench has a row for each noise and level, and names what was harmed."""

from dataclasses import replace
from pathlib import Path

from liveavatar.bench.sound import report
from liveavatar.files import read_json
from tests.bench.sound.test_run import GOOD


def test_report(tmp_path: Path) -> None:
    clean = replace(GOOD, level=20, chosen="raw", dnsmos_after=2.0, heard_after=0.4)
    rows = [GOOD, replace(GOOD, level=0), clean, replace(clean, chosen="mild", si_sdr_after=1.0)]
    page = report.write_report(rows, tmp_path).read_text()
    assert "| white | 20 dB | 0.20 to 0.10 | 2.00 to 2.00 | 10.0 to 7.5 | raw 1, mild 1 | 0 |" in page
    assert "* a white 20: SI-SDR 10.0 to 1.0 dB" in page
    assert "in the sound alone, guesses included, is better in 2 and worse in 2." in page
    assert page.endswith("* a white 20: 0.20 to 0.40\n* a white 20: 0.20 to 0.40\n")
    assert len(read_json(next(tmp_path.glob("sound_*.json")))["rows"]) == 4

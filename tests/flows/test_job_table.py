"""Tables of jobs: every format gives the same jobs; bad tables are refused in one line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from flows.job_table import read_manifest
from liveavatar.errors import InputError

ROWS = [{"audio": "a.wav", "prompt": "A woman talks."}, {"audio": "gone.wav", "prompt": "A man, calm.", "seed": 7}]
DEFAULTS = {"image": "face.png", "seed": 420}


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_jobs(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    first, second = read_manifest(_write(tmp_path / f"jobs{suffix}", ROWS), DEFAULTS)
    assert first == {"audio": str(tmp_path / "a.wav"), "image": "face.png", "prompt": "A woman talks.", "seed": 420}
    assert second["audio"] == "gone.wav", "only files beside the table are meant"
    assert float(second["seed"]) == 7, "a cell goes before the default"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("none.csv", None, "is not there", id="missing"),
        pytest.param("jobs.txt", "audio", "no format", id="unknown format"),
        pytest.param("jobs", "audio", "no suffix", id="no suffix"),
        pytest.param("jobs.csv", "audio,prompt\n", "holds no job", id="only a head"),
        pytest.param("jobs.csv", 'audio\n"open', "cannot be read as csv", id="an open quote"),
        pytest.param("jobs.jsonl", "[1]", "no JSON object", id="a list"),
        pytest.param("jobs.jsonl", "{", "cannot be read as jsonl", id="half an object"),
        pytest.param("jobs.parquet", "audio", "cannot be read as parquet", id="text as parquet"),
    ],
)
def test_bad_tables_are_refused(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / name, {})

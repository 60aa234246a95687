"""Tables of jobs: every format gives the same jobs; bad tables are refused in one line."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.job_table import MAX_BYTES, MAX_ROWS, read_manifest
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["", "sep={}", '"sep={}"'])
def test_what_spreadsheets_save_is_read(encoding: str, delimiter: str, end: str, first: str, tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    lines = ["audio,image,prompt,,", 'a.wav,b.png,"A woman, in red; José",,', ",,,,", "c.wav,d.png", ""]
    quoted = [line.replace(", in", "\0 in").replace(",", delimiter).replace("\0", ",") for line in lines]
    table.write_bytes(end.join([first.format(delimiter)] * bool(first) + quoted).encode(encoding))
    first, _, last = read_manifest(table, {})
    assert first == {"audio": "a.wav", "image": "b.png", "prompt": "A woman, in red; José"}
    assert last == {"audio": "c.wav", "image": "d.png"}


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_bytes("audio,prompt\na.wav,José\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8: save it as UTF-8, `CSV UTF-8` in"):
        read_manifest(tmp_path / "jobs.csv", {})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("none.csv", None, "is not there", id="missing"),
        pytest.param("jobs.txt", "audio", "no format", id="unknown format"),
        pytest.param("jobs", "audio", "no suffix", id="no suffix"),
        pytest.param("jobs.csv", "audio,prompt\n", "holds no job", id="only a head"),
        pytest.param("jobs.csv", "", "holds no job", id="empty"),
        pytest.param("jobs.csv", "audio,prompt\na,A woman, calm\n", "row 1 has 3 cells, the header 2", id="a comma"),
        pytest.param("jobs.csv", "audio;prompt\na;b\nc;d;e\n", "row 2 has 3 cells.* ';'", id="a semicolon"),
        pytest.param("jobs.csv", "audio,\na,b\n", "column of 'b' in row 1 has no name", id="a column without a name"),
        pytest.param("jobs.csv", "audio,seed, audio\na,1,b\n", "names the column audio twice", id="a column twice"),
        pytest.param("jobs.csv", 'audio\n"open', "cannot be read as csv", id="an open quote"),
        pytest.param("jobs.csv", f"prompt\n{'A' * 200_000}\n", "larger than field limit", id="a huge cell"),
        pytest.param("jobs.csv", "seed\n" + "1\n" * (MAX_ROWS + 1), "more than 100000 rows; split", id="too many rows"),
        pytest.param("jobs.jsonl", "{}\n" * (MAX_ROWS + 1), "more than 100000 rows; split", id="too many lines"),
        pytest.param("jobs.jsonl", "{}\n\n[1]", "line 3 is no JSON object", id="a list"),
        pytest.param("jobs.jsonl", '{"seed": 1, "seed": 2}', "line 1: it names 'seed' twice", id="a value twice"),
        pytest.param("jobs.jsonl", "{", "cannot be read as jsonl", id="half an object"),
        pytest.param("jobs.jsonl", "[" * 100_000, "cannot be read as jsonl", id="nested without end"),
        pytest.param("jobs.csv", "audio,out\na,b\0\n", "row 1 holds a null character in the column out", id="null"),
        pytest.param("jobs.jsonl", '{"out": "\\u0000"}', "null character in the column out", id="escaped null"),
        pytest.param("jobs.jsonl", '{"prompt": "a \\ud800 b"}', "row 1 holds half a character", id="half a character"),
        pytest.param("a" * 300 + ".csv", None, "is not there", id="a name too long"),
        pytest.param("jobs.parquet", "audio", "cannot be read as parquet", id="text as parquet"),
    ],
)
def test_bad_tables_are_refused(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / name, {})


def test_a_cell_with_a_name_too_long_stays_as_it_is(tmp_path: Path) -> None:
    """The row is refused when its turn comes; the other rows are rendered."""
    (tmp_path / "jobs.csv").write_text(f"audio,prompt\n{'a' * 300}.wav,A woman.\n")
    assert read_manifest(tmp_path / "jobs.csv", {})[0]["audio"] == "a" * 300 + ".wav"


def test_a_parquet_file_is_read_whatever_pandas_notes_in_it(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["A woman.", None], "seed": [3.0, float("nan")], "__index_level_0__": [5, 6]})
    noted = table.replace_schema_metadata({"pandas": '{"columns": [{"field_name": "seed"}], "index_columns": [0]}'})
    pq.write_table(noted, tmp_path / "jobs.parquet")
    assert read_manifest(tmp_path / "jobs.parquet", {}) == [{"prompt": "A woman.", "seed": 3.0}, {}]


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"]], names=["out", "out"]), tmp_path / "jobs.parquet")
    with pytest.raises(InputError, match="names the column out twice"):
        read_manifest(tmp_path / "jobs.parquet", {})


def test_a_line_of_jsonl_may_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "A woman\u2028and\x85a man"}\n')
    assert read_manifest(tmp_path / "jobs.jsonl", {}) == [{"prompt": "A woman\u2028and\x85a man"}]


def test_a_table_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    rows = pa.table({"prompt": pa.array(["A woman."] * (MAX_ROWS + 1)).dictionary_encode()})
    pq.write_table(rows, tmp_path / "rows.parquet")
    pq.write_table(pa.table({"prompt": ["A" * (MAX_BYTES + 1)]}), tmp_path / "bytes.parquet", compression="zstd")
    (tmp_path / "jobs.csv").write_bytes(b"prompt\n" + b"A" * MAX_BYTES)
    for name, message in (
        ("rows.parquet", "split it"),
        ("bytes.parquet", "split it"),
        ("jobs.csv", "larger than 50 MB"),
    ):
        with pytest.raises(InputError, match=message):
            read_manifest(tmp_path / name, {})
    assert (tmp_path / "bytes.parquet").stat().st_size < 1_000_000

"""`liveavatar runs`: the catalogue as lines, JSON and Parquet."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from liveavatar import paths
from tests.flows.cli.commands import run
from tests.flows.cli.published import publish


@pytest.fixture
def runs(home: Path) -> Path:
    publish(home / "one", ingest="a" * 64)
    publish(home / "two", "failed")
    shutil.rmtree(home / "one")
    return home


def test_runs_are_listed_the_newest_first_and_stay_when_their_folder_is_gone(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["runs"], capsys)
    head, first, second = out.splitlines()
    assert code == 0
    assert head.split() == ["finished", "status", "sound,", "picture", "sound", "s", "fps", "seed", "folder"]
    assert first.split() == ["0", "s", "ago", "failed", "voice,", "anna", "2.5", "12.5", "7", str(runs / "two")]
    assert second.endswith(f"{runs / 'one'}  (gone, or made again)")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["two", "one"]),
        (["--status", "passed"], ["one"]),
        (["--name", "TWO"], ["two"]),
        (["--most", "1"], ["two"]),
        (["--name", "three"], []),
    ],
)
def test_runs_are_chosen(
    arguments: list[str], names: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["runs", "--json", *arguments], capsys)
    assert (code, [Path(row["out"]).name for row in json.loads(out)]) == (0, names)


def test_parquet_has_a_row_a_run_and_a_column_a_fact(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "--parquet", "runs.parquet"], capsys)[0] == 0
    table = pd.read_parquet("runs.parquet").set_index("status")
    assert list(table.index) == ["failed", "passed"]
    assert table.loc["passed", ["prompt", "seed", "fps", "deadline_misses", "frames", "lip_sync"]].to_list() == [
        *("A man.", 7, 12.5, 3, 62, 0.25)
    ]
    assert table.loc["passed", "ingest_key"] == "a" * 64
    assert table["finished"].dt.tz is not None
    assert table["silent_lip"].isna().all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--most", "0"], "--most 0"),
        (["--parquet", "."], "give the name of a file"),
        (["--parquet", "none/runs.parquet"], "give the name of a file"),
        (["--parquet", "x.parquet", "--name", "three"], "no such run"),
        (["--status", "good"], "invalid choice"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], says: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["runs", *arguments], capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_an_empty_catalogue_says_how_a_run_comes_in(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["runs"], capsys)
    assert (code, "liveavatar render" in out) == (0, True)


def test_a_pipe_among_the_records_is_not_waited_for(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(paths.catalogue() / f"{'e' * 32}.json")
    code, out, _ = run(["runs"], capsys)
    assert (code, "left out: 1 damaged record" in out) == (0, True)
    assert run(["store", "verify"], capsys)[0] == 1

"""A table of jobs is checked before the first is rendered: misspelt columns, folders, and rows that cannot work."""

from pathlib import Path
from typing import Any

import pytest

from flows import preflight
from flows.job_check import check_columns, name_outputs, refusals
from liveavatar.errors import CapacityError, InputError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sound and a portrait."""
    monkeypatch.chdir(tmp_path)
    for name in ("voice.wav", "face.png"):
        Path(name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("column", "message"),
    [
        pytest.param("audo", "'audo' of the table is no option of a render: did you mean audio?", id="misspelt"),
        pytest.param("Sample Steps", "did you mean sample_steps?", id="as a heading"),
        pytest.param("sample-steps", "did you mean sample_steps?", id="with a dash"),
        pytest.param("=cmd|'/C calc'!A0", "`liveavatar render --help` lists them", id="a formula"),
        pytest.param("x" * 50_000, "'" + "x" * 40 + "' of the table", id="a long one"),
    ],
)
def test_a_column_that_is_no_option_is_named(column: str, message: str) -> None:
    check_columns([{"audio": "a", "seed": 1}])
    with pytest.raises(InputError) as refused:
        check_columns([{"audio": "a"}, {"audio": "a", column: "b"}])
    assert message in str(refused.value)


@pytest.mark.parametrize("second", ["films/a", "films/../films/a/", "link/a", "out/000-voice"])
def test_two_rows_with_one_folder_are_refused(second: str, folder: Path) -> None:
    (folder / "link").symlink_to(folder / "films")
    first: dict[str, str] = {"audio": "voice.wav"} if second.startswith("out") else {"audio": "v.wav", "out": "films/a"}
    jobs = [first, {"audio": "v.wav"}, {"audio": "w.wav", "out": second}]
    with pytest.raises(InputError, match=r"rows 1 and 3 of the table have the same out"):
        name_outputs(jobs, Path("out"))
    assert [job["out"] for job in name_outputs(jobs[:2], Path("out"))] == [
        first.get("out", "out/000-voice"),
        "out/001-v",
    ]


@pytest.mark.parametrize("outs", [("films/a", "films/a/b"), ("films/a/b/c", "films/a")])
def test_a_folder_in_that_of_another_row_is_refused(outs: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"row \d of the table has an out in that of row \d, films/a;"):
        name_outputs([{"out": out} for out in outs], Path("out"))


@pytest.mark.parametrize(
    "out", ["../films", "/etc/films", "away/films", ".", "out", "films/../..", "x" * 300 + "/../.."]
)
def test_a_folder_elsewhere_is_refused(out: str, folder: Path) -> None:
    (folder / "away").symlink_to("/var/tmp")
    with pytest.raises(InputError, match=r"row 2 of the table: out .* does not lie below --out or the working folder"):
        name_outputs([{}, {"out": out}], Path("out"))


@pytest.mark.parametrize("out", ["films", "films/b/../c", "/data/films/a"])
def test_a_folder_below_is_kept(out: str) -> None:
    assert name_outputs([{"out": out}], Path("/data/films"))[0]["out"] == out


def job(**changes: Any) -> dict[str, Any]:
    """Make a row that can be rendered, but for the changes."""
    return {"audio": "voice.wav", "image": "face.png", "prompt": "A woman talks.", "out": "out/a", **changes}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param(job(audio="gone.wav"), "--audio gone.wav: there is no such file", id="no sound"),
        pytest.param(job(image="../face.png"), "--image ../face.png: there is no such file", id="no picture"),
        pytest.param(job(audio="a" * 5000), "there is no such file", id="a name too long"),
        pytest.param(job(audio="-"), "standard input can be heard only once", id="a pipe"),
        pytest.param(job(audio={"a": [1]}), "--audio", id="nested"),
        pytest.param(job(prompt=[["A"]]), "--prompt", id="a list"),
        pytest.param(job(prompt="A" * 200_000), "keep it under", id="a huge prompt"),
        pytest.param(job(prompt="  "), "is empty", id="no prompt"),
        pytest.param(job(sample_steps="40"), "--sample_steps '40'", id="out of range"),
        pytest.param(job(seed="=1+1"), "--seed '=1+1'", id="a formula"),
        pytest.param(job(sed=1), "--sed is no option of a render: did you mean seed?", id="misspelt"),
        pytest.param(job(model="nowhere"), "nowhere", id="no model"),
        pytest.param(job(out="o" * 300), "no folder can have this name", id="a folder's name too long"),
        pytest.param(job(out="face.png"), "is a file, not a folder", id="a folder that is a file"),
        pytest.param({}, "--audio is missing", id="nothing"),
    ],
)
def test_a_row_that_cannot_work_is_known_before_the_first_is_rendered(row: dict[str, Any], reason: str) -> None:
    found = refusals([job(), row, job(prompt="=HYPERLINK(1) says she, @home")])
    assert list(found) == [1]
    assert reason in str(found[1])
    assert isinstance(found[1], InputError | CapacityError)


def test_a_model_is_read_once_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = preflight.read_config
    monkeypatch.setattr(preflight, "read_config", lambda folder: asked.append(str(folder)) or read(folder))
    rows = [job(seed=seed, out=f"out/{seed}", prompt=f"A woman talks {seed} times.") for seed in range(50)]
    assert list(refusals([*rows, job(placement="tpp", num_gpus=6), job(placement="tpp", num_gpus=6)])) == [50, 51]
    assert len(asked) == 2

"""Catalogue of published runs: what it lists and which files it gives."""

import json
from pathlib import Path
from typing import Any

import pytest

from liveavatar.files import read_json, write_json
from tasks import catalogue
from tasks.catalogue import damaged_records, find_run, page_url, record_run, recorded_runs


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LIVEAVATAR_PAGE", raising=False)
    return tmp_path / "home"


def publish(out: Path, digest: str = "1" * 64) -> dict[str, Any]:
    """Fill a folder as a run does."""
    out.mkdir(parents=True, exist_ok=True)
    inputs = {"audio": {"name": "voice.wav"}, "image": {"name": "anna.png"}}
    manifest = {"inputs": inputs, "outputs": {"video.mp4": digest, "audio/words.json": "2" * 64}}
    for name in ("video.mp4", "audio/words.json", "report.html", "private.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def test_a_run_gives_the_files_of_its_manifest_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = record_run(out, publish(out), {"status": "warned"})
    found = find_run(run.id)
    assert found == run
    assert (run.name, run.status, run.folder) == ("voice, anna", "warned", out)
    for name in ("video.mp4", "audio/words.json", "report.html", "manifest.json"):
        assert run.file(name) == out / name
    for name in ("private.txt", "report.json", "../home/catalogue", f"{out}/private.txt", "audio", ""):
        assert run.file(name) is None


def test_a_file_that_is_a_link_out_of_the_folder_is_not_given(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = record_run(out, publish(out), {"status": "passed"})
    (out / "video.mp4").unlink()
    (out / "video.mp4").symlink_to(tmp_path / "out2")
    (tmp_path / "out2").write_text("secret")
    assert run.file("video.mp4") is None


def test_a_run_that_was_replaced_or_removed_gives_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = record_run(out, publish(out), {"status": "passed"})
    second = record_run(out, publish(out, "3" * 64), {"status": "passed"})
    assert first.id != second.id
    assert (first.file("video.mp4"), second.file("video.mp4")) == (None, out / "video.mp4")
    (out / "manifest.json").write_text("{")
    assert second.folder is None


def test_the_newest_runs_come_first_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr(catalogue.time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(catalogue, "KEPT", 3)
    runs = [record_run(tmp_path / str(n), publish(tmp_path / str(n)), {"status": "passed"}) for n in range(5)]
    assert recorded_runs() == runs[:1:-1]


@pytest.mark.parametrize("name", ["../secret", "0" * 31, "Z" * 32, "0" * 32])
def test_other_names_are_no_runs(name: str, home: Path) -> None:
    home.mkdir()
    (home / "secret.json").write_text("{}")
    assert find_run(name) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("}", "", id="cut off"),
        pytest.param("passed", "failed", id="a word changed"),
        pytest.param('"passed"', "5", id="a number for a word"),
        pytest.param('"stages": {', '"stages": [], "other": {', id="a list"),
        pytest.param('"name"', '"nbme"', id="a name changed"),
    ],
)
def test_a_damaged_record_is_no_run(tmp_path: Path, home: Path, old: str, new: str) -> None:
    run = record_run(tmp_path / "out", publish(tmp_path / "out"), {"status": "passed"})
    path = home / "catalogue" / f"{run.id}.json"
    whole = path.read_text()
    path.write_text(whole.replace(old, new))
    assert (find_run(run.id), recorded_runs(), damaged_records()) == (None, [], [path])
    path.write_text(whole)
    assert (recorded_runs(), damaged_records()) == ([run], [])


def test_a_record_without_a_digest_is_one_of_an_older_version(tmp_path: Path, home: Path) -> None:
    run = record_run(tmp_path / "out", publish(tmp_path / "out"), {"status": "passed"})
    path = home / "catalogue" / f"{run.id}.json"
    record = read_json(path)
    del record["sha256"]
    write_json(path, record)
    assert find_run(run.id) == run
    write_json(path, {**record, "out": 5})
    assert find_run(run.id) is None


@pytest.mark.parametrize(
    ("given", "start"),
    [(None, "http://127.0.0.1:4280/"), ("https://studio.example/films/", "https://studio.example/films/")],
)
def test_links_name_the_page_of_serve(given: str | None, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is not None:
        monkeypatch.setenv("LIVEAVATAR_PAGE", given)
    assert page_url("0" * 32) == f"{start}runs/{'0' * 32}/report.html"

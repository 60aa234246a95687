"""`liveavatar lineage`: a stray video, a changed one, one that is known only to the store, and other files."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from liveavatar.media.ffmpeg import ffmpeg_binary
from liveavatar.media.film import FilmWriter
from liveavatar.media.origin import origin_mark
from tasks.catalogue import forget_run
from tasks.run_folder import origin_of
from tasks.store.store import Store
from tests.flows.cli.commands import run
from tests.flows.cli.published import PACKAGES, publish
from tests.media.videos import HEIGHT, WIDTH, pictures

KEY = "ab" * 32
PARTS = {"inputs": {}, "code": {}, "packages": PACKAGES}  # of a published run's render
ORIGIN = origin_of(PARTS)


def video(path: Path, comment: str | None) -> bytes:
    with FilmWriter(path, size=(WIDTH, HEIGHT), comment=comment) as writer:
        writer.write(pictures(0, 12))
        return writer.close().read_bytes()


@pytest.fixture
def stray(home: Path) -> Path:
    """A copy of the video of a published run, under another name."""
    path = home / "stray.mp4"
    publish(home / "run", video=video(path, origin_mark(ORIGIN)), render=KEY)
    return path


def test_a_stray_video_is_traced_to_its_run(stray: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["lineage", "stray.mp4"], capsys)
    assert code == 0
    for part in (
        *(f"render {ORIGIN}", "byte for byte", "voice.wav", "anna.png", "A man.", "seed 7", "version 1.0", "cpu"),
        f"liveavatar render --from {home / 'run' / 'manifest.json'}",
    ):
        assert part in out
    told = json.loads(run(["lineage", "stray.mp4", "--json"], capsys)[1])
    assert (told["origin"], told["unchanged"]) == (ORIGIN, True)
    assert told["manifest"]["parameters"]["seed"] == 7


def test_a_video_encoded_anew_keeps_its_mark(stray: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = home / "smaller.mkv"
    command = [ffmpeg_binary(), "-v", "error", "-i", str(stray), "-c:v", "libx264", "-crf", "40", str(changed)]
    subprocess.run(command, check=True, timeout=60)
    code, out, _ = run(["lineage", str(changed)], capsys)
    assert (code, "changed since it was published" in out, "A man." in out) == (0, True, True)


def test_the_store_or_a_manifest_beside_it_is_enough(
    stray: Path, home: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "home" / "catalogue")
    code, _, err = run(["lineage", "stray.mp4"], capsys)
    assert (code, "set LIVEAVATAR_HOME" in err) == (2, True)
    assert "A man." in run(["lineage", "run/video.mp4"], capsys)[1], "its manifest lies beside it"
    Store().build("render", KEY, lambda folder: {}, made_from=PARTS | {"inputs": {"online": True}})
    code, out, _ = run(["lineage", "stray.mp4", "--json"], capsys)
    told = json.loads(out)
    assert (code, told["manifest"], told["made_from"]) == (0, None, PARTS | {"inputs": {"online": True}})


def test_only_the_last_used_renders_of_the_store_are_read(
    stray: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "home" / "catalogue")
    monkeypatch.setattr("flows.cli.lineage.SEARCHED", 2)
    for age, key in enumerate((KEY, "0" * 64, "1" * 64)):
        parts = PARTS if key == KEY else PARTS | {"inputs": {"seed": age}}
        folder = Store().build("render", key, lambda folder: {}, made_from=parts).folder
        os.utime(folder / "entry.json", (1000 + age, 1000 + age))
    assert run(["lineage", "stray.mp4"], capsys)[0] == 2
    monkeypatch.setattr("flows.cli.lineage.SEARCHED", 3)
    assert run(["lineage", "stray.mp4"], capsys)[0] == 0


def test_an_older_video_is_known_by_its_bytes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = publish(home / "run", video=video(home / "old.mp4", None), render=KEY)
    assert "A man." in run(["lineage", "old.mp4"], capsys)[1]
    forget_run(made)
    code, _, err = run(["lineage", "old.mp4"], capsys)
    assert (code, "no mark of a render" in err, err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize(("name", "says"), [("none.mp4", "is not there"), ("text.mp4", "no media file")])
def test_other_files_are_refused(name: str, says: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "text.mp4").write_text("hello")
    code, _, err = run(["lineage", name], capsys)
    assert (code, says in err, err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize("part", ["parameters", "inputs", "code", "machine"])
@pytest.mark.parametrize("odd", ["missing", None, "text"])
def test_a_manifest_of_another_version_tells_the_rest(
    part: str, odd: str | None, stray: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    if odd == "missing":
        del manifest[part]
    else:
        manifest[part] = odd
    path.write_text(json.dumps(manifest))
    code, out, _ = run(["lineage", "stray.mp4"], capsys)
    assert code == 0
    assert ("not told by this manifest" in out) == (part != "machine" or odd == "missing")
    assert f"render --from {path}" in out


def test_the_command_to_make_a_video_again_can_be_typed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(home / "anna's run", video=video(home / "stray.mp4", origin_mark(ORIGIN)), render=KEY)
    typed = run(["lineage", "stray.mp4"], capsys)[1].splitlines()[-1].removeprefix("  again")
    assert shlex.split(typed)[-1] == str(home / "anna's run" / "manifest.json")

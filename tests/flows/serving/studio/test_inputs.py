"""Files given to the studio page: named safely, kept once, refused in one line, cleared when they are too many."""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flows.serving.studio import inputs
from flows.serving.studio.inputs import UploadTooLarge, collect, keep, receive
from flows.stored_inputs import AUDIO, IMAGE, StoredInput, find_input, input_of_path, path_of
from liveavatar import paths
from liveavatar.errors import InputError

SAMPLES = paths.DATA / "samples"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    return tmp_path


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


def given(data: bytes, kind: str, name: str) -> StoredInput:
    """Upload a file."""
    temporary, digest = asyncio.run(receive(chunks(data), kind, len(data)))
    return keep(temporary, digest, kind, name)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "inputs").iterdir())


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        pytest.param("Anna (final).PNG", "Anna-final.png", id="signs and capitals"),
        pytest.param("../../etc/passwd", "passwd", id="a path"),
        pytest.param("C:\\Users\\x\\voice.wav", "voice.wav", id="a path of Windows"),
        pytest.param("😀.wav", "input.wav", id="signs only"),
        pytest.param("🎤 take #2 100% \"final\" 'x' & y?.wav", "take-2-100-final-x-y.wav", id="all that a shell minds"),
        pytest.param("安娜 录音.m4a", "安娜-录音.m4a", id="Chinese"),
        pytest.param("<script>alert(1)</script>.png", "script.png", id="markup"),
        pytest.param(".hidden", "hidden", id="a dot file"),
        pytest.param("-rf", "rf", id="an option"),
        pytest.param("", "input", id="none"),
        pytest.param("x" * 300 + ".wav", "x" * 60 + ".wav", id="long"),
        pytest.param("a\x00b\n.wav", "a-b.wav", id="control characters"),
    ],
)
def test_names_are_safe(name: str, safe: str) -> None:
    assert inputs.safe_name(name) == safe


def test_a_sound_and_a_picture_are_kept_by_their_digests(home: Path) -> None:
    voice, portrait = (SAMPLES / name for name in ("speech.wav", "portrait.png"))
    sound = given(voice.read_bytes(), AUDIO, "My voice.wav")
    assert sound.id == hashlib.sha256(voice.read_bytes()).hexdigest()[:32]
    assert sound.path == home / "inputs" / sound.id / "My-voice.wav"
    assert sound.path.read_bytes() == voice.read_bytes()
    assert sound.seconds is not None
    assert sound.seconds > 1
    picture = given(portrait.read_bytes(), IMAGE, "portrait.png")
    assert picture.preview.read_bytes()[:3] == b"\xff\xd8\xff"
    assert (picture.width, picture.height) != (None, None)
    before = left(home)
    assert given(portrait.read_bytes(), IMAGE, "portrait.png") == picture
    assert left(home) == before
    assert input_of_path(str(picture.path)) == picture
    assert input_of_path(str(portrait)) is None
    judged = inputs.judge_stored(picture, "mini", 1)
    assert judged["verdict"] == "will speak"
    assert judged["video"][0] <= (picture.width or 0)
    with pytest.raises(InputError, match="--face 5"):
        inputs.judge_stored(picture, "mini", 5)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_the_name_given_last_is_shown_and_earlier_ones_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(os, "link", refuse)
    voice = (SAMPLES / "speech.wav").read_bytes()
    first, second = given(voice, AUDIO, "take 1.wav"), given(voice, AUDIO, "Final.wav")
    assert (first.name, second.name, second.id) == ("take-1.wav", "Final.wav", first.id)
    assert find_input(first.id) == second
    assert (first.path.read_bytes(), second.path.read_bytes()) == (voice, voice), "a job may have either path"
    assert input_of_path(str(first.path)) == input_of_path(str(second.path)) == second
    assert [path_of(f"studio:{name}", AUDIO) for name in ("take-1.wav", "Final.wav", first.id)] == [
        *(str(first.path), str(second.path), str(second.path))
    ]
    assert given(voice, AUDIO, "take 1.wav").name == "take-1.wav"
    old = time.time() - 3 * 86400
    os.utime(home / "inputs" / f"{first.id}.json", (old, old))
    collect(most_bytes=len(voice) * (1 if links else 2))
    assert find_input(first.id) is not None, "two names of one file take its room once"


@pytest.mark.parametrize(
    ("data", "kind", "name"),
    [
        pytest.param(b"", AUDIO, "empty.wav", id="empty"),
        pytest.param(b"#EXTM3U\nhttp://evil.example/\n", AUDIO, "list.wav", id="a playlist"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", IMAGE, "x.png", id="a drawing with scripts"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", IMAGE, "x.png", id="a program"),
    ],
)
def test_what_is_no_sound_or_picture_is_refused_and_deleted(home: Path, data: bytes, kind: str, name: str) -> None:
    with pytest.raises(InputError) as refusal:
        given(data, kind, name)
    assert str(refusal.value).startswith(name)
    assert str(home) not in str(refusal.value)
    assert left(home) == []


def test_a_sound_is_no_picture(home: Path) -> None:
    sound = given((SAMPLES / "speech.wav").read_bytes(), AUDIO, "voice.wav")
    with pytest.raises(InputError, match="drop it again"):
        inputs.require_input(sound.id, IMAGE)
    assert inputs.require_input(sound.id, AUDIO) == sound


@pytest.mark.parametrize("declared", [10, 0], ids=["declared", "in truth"])
def test_too_long_an_upload_stops(home: Path, monkeypatch: pytest.MonkeyPatch, declared: int) -> None:
    monkeypatch.setitem(inputs.MOST_BYTES, AUDIO, 5)
    with pytest.raises(UploadTooLarge):
        asyncio.run(receive(chunks(b"0123456789"), AUDIO, declared))
    assert not (home / "inputs").exists() or left(home) == []


@pytest.mark.parametrize("name", ["", "..", "0" * 31, "0" * 33, "../" + "0" * 29, "G" * 32])
def test_an_id_is_no_path(home: Path, name: str) -> None:
    assert find_input(name) is None


def test_files_that_nobody_uses_make_room(home: Path) -> None:
    stored = [given((SAMPLES / "speech.wav").read_bytes() + bytes(2 * n), AUDIO, f"{n}.wav") for n in range(3)]
    old = time.time() - 3 * 86400
    for age, one in enumerate(stored[:2]):
        os.utime(home / "inputs" / f"{one.id}.json", (old + age, old + age))
    leftover = home / "inputs" / ".half.tmp"
    leftover.write_bytes(b"x")
    os.utime(leftover, (old, old))
    size = stored[0].path.stat().st_size
    collect(most_bytes=2 * size + 100)
    assert [find_input(one.id) is not None for one in stored] == [False, True, True]
    assert not leftover.exists()
    collect(most_bytes=0)
    assert [find_input(one.id) is not None for one in stored] == [False, False, True], "used a moment ago"
    shutil.rmtree(stored[2].path.parent)
    assert find_input(stored[2].id) is None

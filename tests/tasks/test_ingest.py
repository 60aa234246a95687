"""Ingest: files opened once, sound cut and kept unrounded, each entry under the key of what it reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from liveavatar import paths
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.media.framing import Framing
from liveavatar.pose.packed import DrawnPose
from liveavatar.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from tasks import events, ingest
from tasks.events import Event
from tasks.inputs import InputFile, JobInputs

SOUND = np.random.default_rng(0).normal(scale=0.1, size=SAMPLE_RATE).astype(np.float32)
PIXELS = np.random.default_rng(1).integers(0, 255, (512, 512, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


def file(name: str, digit: str) -> InputFile:
    return InputFile(path=Path(name), sha256=digit * 64)


def inputs(**changes: Any) -> JobInputs:
    """Decoded files: nothing is opened again."""
    given = {"image": file("i.png", "1"), "audio": file("a.wav", "2"), "samples": SOUND, "pixels": PIXELS}
    return JobInputs(**{**given, **changes})


def test_sound_and_portrait_are_taken_as_they_were_decoded(tiny_model: Path) -> None:
    made = ingest.ingest.fn(inputs(), str(tiny_model), Framing(), None)
    assert not made.hit
    assert np.array_equal(ingest.read_wav(made.sound.path(ingest.RAW)), SOUND), "unrounded"
    assert made.sound.values == {"num_samples": SAMPLE_RATE, "seconds": 1.0}
    size = made.portrait.values["width"], made.portrait.values["height"]
    assert size in ((384, 256), (256, 384))
    assert Image.open(made.portrait.path(ingest.PORTRAIT)).size == size
    assert made.pose is None
    again = ingest.ingest.fn(inputs(), str(tiny_model), Framing(), None)
    assert again.hit
    alone = ingest.portrait.fn(inputs(audio=None), str(tiny_model), Framing())
    assert alone.hit
    assert alone.key == made.portrait.key


def test_every_run_is_told_whether_the_portrait_will_speak(tiny_model: Path) -> None:
    said: list[Event] = []
    with events.listening(said.append):
        for _ in range(2):
            made = ingest.portrait.fn(inputs(audio=None), str(tiny_model), Framing())
    assert made.hit
    notes = [event.text for event in said if event.kind == "note"]
    assert notes == 2 * [made.values["check"]["line"]]
    assert notes[0].startswith("the portrait will not speak: no face is found")


def test_sound_is_cut_at_the_frames_of_the_clips(tiny_model: Path) -> None:
    whole = ingest.ingest.fn(inputs(), str(tiny_model), Framing(), None)
    cut = ingest.ingest.fn(inputs(), str(tiny_model), Framing(), 10)
    assert cut.sound.values["num_samples"] == 10 * SAMPLES_PER_FRAME
    assert np.array_equal(ingest.read_wav(cut.sound.path(ingest.RAW)), SOUND[: 10 * SAMPLES_PER_FRAME])
    assert cut.sound.key != whole.sound.key
    assert cut.portrait.hit


def test_a_pose_is_as_long_as_the_sound_and_misses_alone(tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    table.write_text("frame,yaw,pitch,roll\n" + "".join(f"{frame},{frame / 100},0,0\n" for frame in range(40)))
    ingest.ingest.fn(inputs(), str(tiny_model), Framing(), None)
    posed = ingest.ingest.fn(inputs(pose=file(str(table), "3")), str(tiny_model), Framing(), None)
    assert posed.pose is not None
    track = np.load(posed.pose.path(ingest.POSE))
    assert posed.pose.values == {"frames": 25}
    assert track.shape == (25, 3)
    assert posed.sound.hit
    assert posed.portrait.hit
    assert not posed.hit


def test_16_bit_sound_is_read_to_the_range_of_float(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "s.wav", SAMPLE_RATE, np.array([-32768, 0, 16384], np.int16))
    assert ingest.read_wav(tmp_path / "s.wav").tolist() == [-1.0, 0.0, 0.5]


def test_a_model_of_skeletons_gets_a_drawn_pose(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(LIVE_AVATAR_14B.to_json())
    portrait = Image.open(paths.DATA / "samples" / "portrait.png").convert("RGB").resize((256, 256))
    table = tmp_path / "pose.csv"
    table.write_text("frame,yaw,pitch,roll\n0,0,0,0\n2,20,0,0\n")
    given = inputs(pixels=np.asarray(portrait), pose=InputFile(path=table, sha256="3" * 64))
    said: list[Event] = []
    with events.listening(said.append):
        made = ingest.ingest.fn(given, str(folder), Framing(), None)
    assert made.pose is not None
    drawn = DrawnPose(np.load(made.pose.path(ingest.POSE)))
    size = made.portrait.values["width"], made.portrait.values["height"]
    assert (drawn.num_frames, drawn.width, drawn.height) == (3, *size)
    assert any("was not measured" in event.text for event in said if event.kind == "note")
    other = ingest.ingest.fn(inputs(pose=given.pose, pixels=np.ascontiguousarray(np.asarray(portrait)[:, ::-1]),
                                    image=file("j.png", "4")), str(folder), Framing(), None)  # fmt: skip
    assert other.pose is not None
    assert other.pose.key != made.pose.key, "it is drawn for a portrait"

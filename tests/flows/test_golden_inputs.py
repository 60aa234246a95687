"""Made inputs of golden jobs: the same bytes each time, and what each is meant to be."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from flows.golden_inputs import MAKERS, NOISE_DB, PREFIX, make_input
from flows.parameters import read_parameters
from liveavatar.errors import InputError
from liveavatar.files import read_json
from liveavatar.paths import GOLDEN_BASELINES
from liveavatar.pose.files import read_pose_csv
from liveavatar.timing import FPS


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_bytes_come_out_again(name: str, tmp_path: Path) -> None:
    first = make_input(name, tmp_path).read_bytes()
    assert len(first) > 1000
    assert make_input(name, tmp_path / "again").read_bytes() == first


def test_sounds_last_eight_seconds(tmp_path: Path) -> None:
    rate, voice = wavfile.read(make_input("voice", tmp_path))
    _, noisy = wavfile.read(make_input("noisy-voice", tmp_path))
    _, silence = wavfile.read(make_input("silence", tmp_path))
    assert (len(voice), len(noisy), len(silence)) == (8 * rate, 8 * rate, 8 * rate)
    noise = noisy.astype(float) - voice
    assert 20 * np.log10(np.std(voice) / np.std(noise)) == pytest.approx(NOISE_DB, abs=0.2)
    assert not silence[2 * rate : 6 * rate].any()
    assert np.array_equal(np.delete(silence, slice(2 * rate, 6 * rate)), np.delete(voice, slice(2 * rate, 6 * rate)))


def test_two_people_stand_side_by_side(tmp_path: Path) -> None:
    with Image.open(make_input("two-people", tmp_path)) as picture:
        pixels = np.asarray(picture).astype(float)
    assert pixels.shape[0] == 512
    assert pixels.shape[1] > 512
    assert np.std(pixels[:, :256]) > 20
    assert np.std(pixels[:, -256:]) > 20


def test_the_pose_is_a_track_that_a_render_reads(tmp_path: Path) -> None:
    assert len(read_pose_csv(make_input("pose", tmp_path))) == 200


def test_the_pose_moves_within_what_the_model_follows(tmp_path: Path) -> None:
    with make_input("pose", tmp_path).open() as file:
        rows = list(csv.DictReader(file))
    angles = np.array([[float(row[name]) for name in ("yaw", "pitch", "roll")] for row in rows])
    assert len(rows) == 200
    assert np.abs(angles).max(0) == pytest.approx([8, 4, 0], abs=0.1)


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made:cat: no such input is made; there are voice,"):
        make_input("cat", tmp_path)


def test_golden_jobs_name_inputs_that_are_made() -> None:
    jobs = read_json(GOLDEN_BASELINES / "long" / "jobs.json")
    assert len(jobs) >= 6
    for job in jobs.values():
        assert job["num_clip"] * job["infer_frames"] >= 8 * FPS, "the whole sound is spoken"
        form = read_parameters(job)
        made = [str(value).removeprefix(PREFIX) for value in job.values() if str(value).startswith(PREFIX)]
        assert set(made) <= set(MAKERS)
        assert form.audio.startswith(PREFIX)

"""The library's short way: five lines that make a video."""

from pathlib import Path

import numpy as np
from scipy.io import wavfile

from liveavatar import RenderSettings, job_from_files, load_engine, write_video
from liveavatar.media.ffmpeg import probe_video
from liveavatar.paths import DATA
from liveavatar.timing import SAMPLE_RATE


def test_five_lines_make_a_video(tmp_path: Path) -> None:
    speech = wavfile.read(DATA / "samples" / "speech.wav")[1][: SAMPLE_RATE // 2]
    wavfile.write(tmp_path / "speech.wav", SAMPLE_RATE, speech)
    settings = RenderSettings(prompt="A man greets the audience with a smile", sample_steps=1)

    engine = load_engine("mini")
    job = job_from_files("mini", tmp_path / "speech.wav", DATA / "samples" / "portrait.png", settings)
    video = write_video(engine.open(job), tmp_path / "video.mp4", tmp_path / "speech.wav")

    info = probe_video(video)
    assert (info.width, info.height, info.num_frames) == (256, 384, job.num_frames)
    assert job.num_frames == 13
    assert job.image.dtype == np.uint8

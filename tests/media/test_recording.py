"""Growing recordings: the reader, and the HLS sound without the delay of the AAC coder."""

from pathlib import Path

import av
import numpy as np
import pytest

from liveavatar.media.film import FilmWriter
from liveavatar.media.recording import Recording, RecordingEncoder, RecordingReader
from liveavatar.timing import SAMPLE_RATE
from tests.media.videos import HEIGHT, WIDTH, pictures, tone

CLICK = 1.0  # seconds
SECONDS = 3


def clicking() -> np.ndarray:
    """Silence with a short tone at 1 s."""
    audio = np.zeros(SECONDS * SAMPLE_RATE, np.float32)
    start = round(CLICK * SAMPLE_RATE)
    audio[start : start + 800] = tone(0.05, 1000)
    return audio


def recorded(folder: Path, audio: np.ndarray, ended: bool = True) -> Recording:
    """A recording of a sound."""
    folder.mkdir(exist_ok=True)
    recording = Recording(folder)
    recording.pcm.write_bytes((audio * 32767).astype("<i2").tobytes())
    if ended:
        recording.end.touch()
    return recording


@pytest.mark.parametrize("growing", [pytest.param(True, id="recording"), pytest.param(False, id="whole sound")])
def test_sound_is_heard_when_it_was_recorded(growing: bool, tmp_path: Path) -> None:
    audio = RecordingEncoder(recorded(tmp_path / "pipe", clicking())) if growing else clicking()
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), audio=audio, live_dir=tmp_path / "hls") as writer:
        writer.write(pictures(0, SECONDS * 25))
        writer.close(clicking())
    with av.open(str(tmp_path / "hls" / "index.m3u8")) as container:
        frames = [
            (frame.time, frame.to_ndarray().reshape(-1), frame.sample_rate) for frame in container.decode(audio=0)
        ]
    onset = next(
        time + np.flatnonzero(np.abs(pcm) > 0.1)[0] / rate for time, pcm, rate in frames if (np.abs(pcm) > 0.1).any()
    )
    assert onset == pytest.approx(CLICK, abs=0.005)
    assert frames[0][0] == pytest.approx(0, abs=0.001)


def test_a_wav_file_holds_the_sound_so_far(tmp_path: Path) -> None:
    from scipy.io import wavfile

    recording = recorded(tmp_path, clicking(), ended=False)
    rate, pcm = wavfile.read(recording.write_wav(tmp_path / "sound.wav"))
    assert rate == SAMPLE_RATE
    assert np.array_equal(pcm, (clicking() * 32767).astype(np.int16))


def test_a_reader_knows_the_end_only_after_the_last_sample(tmp_path: Path) -> None:
    recording = recorded(tmp_path, clicking()[:100], ended=False)
    reader = RecordingReader(recording, first_sample=40)
    assert len(reader.read()) == 60
    assert not len(reader.read())
    assert not reader.ended
    with recording.pcm.open("ab") as file:
        file.write(bytes(3))  # a sample and a half
    recording.end.touch()
    assert len(reader.read()) == 1
    assert not reader.ended
    reader.read()
    assert reader.ended

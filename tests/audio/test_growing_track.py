"""Features of a growing recording are those of the whole sound, frame by frame, also after a restart."""

from pathlib import Path

import numpy as np
import torch

from liveavatar.audio.encoders.whisper import WhisperSpeech, whisper_features
from liveavatar.audio.encoders.whisper_network import WhisperEncoder
from liveavatar.audio.growing_track import GrowingTrack
from liveavatar.config import MINI
from liveavatar.media.recording import Recording
from liveavatar.timing import BLOCK_FRAMES
from tests.audio.sounds import syllables


def recording(folder: Path, audio: np.ndarray) -> Recording:
    sound = Recording(folder)
    sound.pcm.write_bytes((audio * 32767).astype("<i2").tobytes())
    return sound


def test_frames_are_those_of_the_whole_sound(encoder: WhisperEncoder, tmp_path: Path) -> None:
    audio = syllables(3.0)
    sound = recording(tmp_path, audio)
    sound.end.touch()
    whole = whisper_features((audio * 32767).astype(np.int16) / np.float32(32768), MINI.speech, whisper_encoder=encoder)
    track = GrowingTrack(sound, MINI.speech, WhisperSpeech(MINI.speech, encoder), history_frames=BLOCK_FRAMES)
    for block in range(2):
        assert track.ready(block)
    torch.testing.assert_close(track[7:19], whole[:, :, 7:19], atol=2e-3, rtol=1e-3)
    track.start(3)  # the block before it is its history
    assert track.ready(3)
    torch.testing.assert_close(track[30:48], whole[:, :, 30:48], atol=2e-3, rtol=1e-3)
    assert track.ready(6)
    assert track.ready(7) is False
    assert track.num_frames == 75


def test_a_block_is_not_ready_before_its_sound(encoder: WhisperEncoder, tmp_path: Path) -> None:
    track = GrowingTrack(
        recording(tmp_path, syllables(0.5)), MINI.speech, WhisperSpeech(MINI.speech, encoder), history_frames=0
    )
    assert track.ready(0) is None
    assert track.num_frames is None

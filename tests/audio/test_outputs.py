"""Output files of the audio stages: whole or absent, and readable by others."""

import errno
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from liveavatar.audio import outputs as module
from liveavatar.audio.ingest import load_audio
from liveavatar.audio.outputs import write_wav
from liveavatar.errors import CapacityError
from tests.audio.sounds import syllables, tone


def test_wav_round_trip(tmp_path: Path) -> None:
    audio = syllables(1.0)
    write_wav(tmp_path / "a.wav", audio)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), audio, atol=1 / 32_000)


def test_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(b"before")

    def full(f: BinaryIO, *_: object, **__: object) -> None:
        f.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.soundfile, "write", full)
    with pytest.raises(CapacityError, match="disk is full"):
        write_wav(target, tone())
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]

"""Features: computed once for a sound and a kind of speech encoder, whose own files count where it has some."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from liveavatar.audio.encoders import ENCODERS, EncoderKind, encoder_kind
from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.errors import CheckpointError
from liveavatar.paths import REPO_ROOT
from tasks import features
from tasks.enhance import CLEANED
from tasks.store.keys import code_parts
from tasks.store.store import Entry, Store, Values
from tests.audio.sounds import syllables, write


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the library was called with."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    asked: list[tuple[Any, ...]] = []

    def write_features(audio: Path, path: Path, speech: Any, model_dir: Path) -> int:
        asked.append((audio.read_text(), speech, model_dir))
        path.write_text("features")
        return 36

    monkeypatch.setattr("liveavatar.audio.features.write_features", write_features)
    return asked


def model(folder: Path, config: ModelConfig) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    return folder


def cleaned(text: str = "sound") -> Entry:
    def make(folder: Path) -> Values:
        (folder / CLEANED).write_text(text)
        return {}

    return Store().build("enhance", text, make)


def test_features_belong_to_a_sound_and_an_encoder(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    own = model(tmp_path / "own", TINY)
    made = features.features.fn(cleaned(), str(own))
    assert calls == [("sound", TINY.speech, own)]
    assert made.values == {"num_frames": 36}
    assert made.path(features.FEATURES).read_text() == "features"
    same = model(tmp_path / "same", replace(TINY, name="other", reanchor=True))
    assert features.features.fn(cleaned(), str(same)).hit, "the same encoder"
    shifted = model(tmp_path / "shifted", replace(TINY, speech=replace(TINY.speech, shifts=(0, 80))))
    for other in (features.features.fn(cleaned(), str(shifted)), features.features.fn(cleaned("noise"), str(own))):
        assert not other.hit
    assert len(calls) == 3


def test_the_files_of_an_encoder_in_the_model_directory_count(
    calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path / "large", LIVE_AVATAR_14B)
    (folder / "model.safetensors").write_text("weights")
    monkeypatch.setattr("liveavatar.checkpoints.released.speech_dir", lambda model_dir: model_dir)
    first = features.features.fn(cleaned(), str(folder))
    assert features.features.fn(cleaned(), str(folder)).hit
    assert set(json.loads(json.dumps(first.made_from["inputs"]))["encoder"]) == {"config.json", "model.safetensors"}
    (folder / "model.safetensors").write_text("other weights")
    assert not features.features.fn(cleaned(), str(folder)).hit
    assert len(calls) == 2


def test_the_corrections_of_an_encoder_count(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    tuned = replace(TINY, speech=replace(TINY.speech, tuning="speech.safetensors"))
    one, other = (model(tmp_path / name, tuned) for name in ("one", "other"))
    with pytest.raises(CheckpointError, match=r"has no speech\.safetensors"):
        features.features.fn(cleaned(), str(one))
    for folder in (one, other):
        (folder / "speech.safetensors").write_text("corrections")
    assert not features.features.fn(cleaned(), str(model(tmp_path / "plain", TINY))).hit
    assert not features.features.fn(cleaned(), str(one)).hit
    assert features.features.fn(cleaned(), str(other)).hit, "the same corrections"
    (other / "speech.safetensors").write_text("others")
    assert not features.features.fn(cleaned(), str(other)).hit
    assert [folder for _, _, folder in calls] == [tmp_path / "plain", one, other]


@pytest.mark.nightly
def test_the_key_holds_the_code_that_runs(tmp_path: Path) -> None:
    wav = write(tmp_path / "sound.wav", syllables(1.0), 16_000)
    command = [sys.executable, "-m", "tests.tasks.audio_alone", "features", str(wav), str(tmp_path)]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    key = code_parts(*features.CODE, encoder_kind(MINI.speech).module)
    assert set(json.loads(done.stdout)) == set(key)


@pytest.mark.parametrize("kind", ENCODERS.values(), ids=ENCODERS)
def test_cleaning_is_no_part_of_the_key(kind: EncoderKind) -> None:
    names = {Path(path).stem for path in code_parts(*features.CODE, kind.module)}
    assert not names & {"denoise", "dnsmos", "enhance", "loudness", "transcribe", "vad"}

"""A downloaded 14B, scaled down, from sound, picture and words to frames."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from liveavatar.audio.feature_file import FeatureFile
from liveavatar.audio.features import write_features
from liveavatar.checkpoints.directory import read_config
from liveavatar.engine.job import StreamJob
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CheckpointError, InputError
from liveavatar.load import load_engine
from tests.job_changes import changed
from tests.released import SCALED, drop, make_released

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_released(tmp_path_factory.mktemp("released") / "live-avatar-14b")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


def speech(path: Path, seconds: float = 1.0) -> Path:
    rng = np.random.default_rng(0)
    times = np.arange(int(16_000 * seconds)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * 180 * times) * (1 + np.sin(2 * np.pi * 4 * times))
    soundfile.write(path, tone + 0.01 * rng.normal(size=times.size), 16_000)
    return path


def test_renders_end_to_end(folder: Path, tmp_path: Path) -> None:
    config = read_config(folder)
    assert config == SCALED
    wav = speech(tmp_path / "speech.wav")
    num_frames = write_features(wav, tmp_path / "features.pt", config.speech, model_dir=folder)
    assert num_frames == 25
    engine = load_engine(folder, device="cpu", dtype="float32")
    features = FeatureFile(tmp_path / "features.pt")
    assert features.shape[:2] == (5, 16)
    job = StreamJob(
        image=np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8),
        settings=RenderSettings(prompt="a calm woman in warm light", sample_steps=2, infer_frames=12),
        features=features,
        num_frames=num_frames,
    )
    made = list(engine.open(job).blocks())
    assert np.concatenate([b.frames for b in made if b.frames is not None]).shape == (25, 64, 64, 3)
    other = engine.open(changed(job, prompt="a man")).next_block()
    assert not torch.equal(other.latents, made[0].latents), "the prompt matters"


def test_features_past_the_track_are_zero(folder: Path, tmp_path: Path) -> None:
    write_features(speech(tmp_path / "s.wav", 0.6), tmp_path / "f.pt", SCALED.speech, model_dir=folder)
    features = FeatureFile(tmp_path / "f.pt")
    assert features.shape[2] == 48
    assert features[0:10].abs().sum() > 0
    assert not features[20:48].any()


def wrong_shape(base: Path) -> None:
    path = base / "wav2vec2-large-xlsr-53-english" / "model.safetensors"
    tensors = load_file(path)
    name = next(k for k in tensors if k.endswith("layer_norm.weight"))
    save_file(tensors | {name: tensors[name][:-1].clone()}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(drop("wav2vec2-large-xlsr-53-english/model.safetensors"), "no wav2vec2 model", id="no weights"),
        pytest.param(drop("wav2vec2-large-xlsr-53-english/config.json"), "no wav2vec2 model", id="no config"),
        pytest.param(
            lambda b: (b / "wav2vec2-large-xlsr-53-english" / "config.json").write_bytes(b"{\xff"),
            "is damaged",
            id="a damaged config",
        ),
        pytest.param(wrong_shape, "do not fit their config", id="another shape"),
    ],
)
def test_speech_encoder_damage_is_named(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = make_released(tmp_path / "m")
    damage(root / "Wan2.2-S2V-14B")
    with pytest.raises(CheckpointError, match=message):
        write_features(speech(tmp_path / "s.wav"), tmp_path / "f.pt", SCALED.speech, model_dir=root)


def test_speech_encoder_without_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model"):
        write_features(speech(tmp_path / "s.wav"), tmp_path / "f.pt", SCALED.speech)

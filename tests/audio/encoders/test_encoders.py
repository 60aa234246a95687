"""The registry of speech encoders: facts without torch, and one line for an unknown kind."""

import subprocess
import sys
from dataclasses import replace

import pytest

from liveavatar.audio.encoders import ENCODERS, encoder_kind
from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.errors import CheckpointError


def test_kinds_of_the_known_models() -> None:
    mini, released = encoder_kind(MINI.speech), encoder_kind(LIVE_AVATAR_14B.speech)
    assert not mini.in_model_dir
    assert not mini.on_gpu
    assert released.in_model_dir
    assert released.on_gpu


def test_an_unknown_kind_is_named_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="'hubert'; known kinds are whisper, wav2vec2"):
        encoder_kind(replace(MINI.speech, kind="hubert"))


def test_the_registry_imports_no_network() -> None:
    script = "import sys, liveavatar.audio.encoders; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_module_has_a_loader(kind: str) -> None:
    import importlib

    assert callable(importlib.import_module(ENCODERS[kind].module).load)

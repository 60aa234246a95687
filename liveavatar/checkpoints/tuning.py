"""The file of a model directory that corrects its speech encoder. Loads no torch."""

from pathlib import Path

from liveavatar.config import SpeechConfig
from liveavatar.errors import CheckpointError, InputError


def tuning_file(speech: SpeechConfig, model_dir: Path | None) -> Path | None:
    """Find the corrections of a model's speech encoder; None for an encoder that is taken as it was published.

    Raises:
        InputError: they lie in a model directory, and there is none.
        CheckpointError: the model directory lacks them.
    """
    if not speech.tuning:
        return None
    if model_dir is None:
        raise InputError(
            f"{speech.tuning}, the corrections of the speech encoder {speech.name}, lies in a model directory; name it "
            "with --model"
        )
    path = model_dir / speech.tuning
    if Path(speech.tuning).name != speech.tuning or not path.is_file():
        raise CheckpointError(
            f"{model_dir} has no {speech.tuning}, the corrections of its speech encoder that config.json names; copy "
            "the model again"
        )
    return path

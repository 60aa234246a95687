"""Code part of a render's key: the modules that one job runs.

`liveavatar.load` imports every backend and placement, and the networks of all models; a job runs one of each. Modules
that a job does not run are left out of its key, so that a new GPU kernel renders nothing again that a CPU made.

Placements are left out of every key. They give the same latents, which tests hold them to, and a job begun under one
placement is resumed under another: with their code in the key, it would be another job.
"""

from dataclasses import asdict, dataclass
from typing import Any

from liveavatar.audio.encoders import encoder_kind
from liveavatar.config import FROM_PORTRAIT, ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.model import other_autoencoders

CODE = ("liveavatar.render.job", "liveavatar.render.sound", "liveavatar.load")
PIPE = "liveavatar.render.pipe"
PLACEMENTS = "liveavatar.distributed"
WATCH = ("liveavatar.engine.memory", "liveavatar.hardware")  # memory is read and told, and changes nothing
PROMPT = "liveavatar.prompt"  # writes the prompt in words of the model; the key holds what it wrote
FAST = "liveavatar.fast"
FACE = "liveavatar.face"  # for a head pose, for frames that are pasted, and for a long video that may fall apart
HEAD_POSE, LIKENESS = "liveavatar.face.head_pose", "liveavatar.face.embedding"
RELEASED_TEXT = ("liveavatar.engine.prompt_embedding", "liveavatar.model.umt5")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderCode:
    """Modules of a render, as `tasks.store.keys.stage_key` takes them."""

    modules: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def job_code(
    config: ModelConfig, settings: RenderSettings, *, offload: bool = False, posed: bool = False, piped: bool = False,
    pasted: bool = False, watched: bool = False, on_gpu: bool = False,
) -> RenderCode:  # fmt: skip
    """List the modules that a job runs; where a GPU decides, those of the GPU too.

    Args:
        config: of the model.
        settings: of the job.
        offload: layers of the transformer wait in host memory.
        posed: whether a pose track is given.
        piped: whether its sound comes from a pipe, whose features the engine computes.
        pasted: whether the face goes back into the user's picture.
        on_gpu: whether it runs on a GPU, where most models run other kernels.
        watched: whether the video ends where it falls apart (`liveavatar.render.collapse.is_watched`).
    """
    left_out = [PLACEMENTS, PROMPT, *WATCH]
    if not (on_gpu and config.runs_fast(fp8=settings.fp8, offload=offload)):
        left_out += [FAST, *other_autoencoders(config.vae)]
    counted = posed and config.pose_origin == FROM_PORTRAIT
    left_out += [] if counted or pasted or watched else [FACE]
    left_out += [] if counted else [HEAD_POSE]
    left_out += [] if watched else [LIKENESS]
    if config.text.resident:
        left_out += RELEASED_TEXT
    return RenderCode(modules=engine_code(config) if piped else CODE, left_out=tuple(left_out))


def engine_code(config: ModelConfig) -> tuple[str, ...]:
    """List the modules that a resident engine may run for any job, placements included."""
    return (*CODE, PIPE, encoder_kind(config.speech).module)


def settings_part(settings: RenderSettings, config: ModelConfig) -> dict[str, Any]:
    """Return the settings as a render's key holds them: the prompt in the words that the text encoder is given."""
    return {**asdict(settings), "prompt": settings.prompt_read(config.text.words_read)}

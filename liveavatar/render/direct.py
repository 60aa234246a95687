"""A video from files in memory: what the library offers without work folder, store, resume and report."""

from pathlib import Path

from liveavatar.audio.encoders import encoder_kind
from liveavatar.audio.ingest import load_audio
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.engine.job import StreamJob, TensorFeatures
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.stream import Stream
from liveavatar.isolation.caller import isolated
from liveavatar.media.film import FilmWriter
from liveavatar.media.portrait import fit_portrait, load_portrait
from liveavatar.timing import count_frames


def job_from_files(
    model: Path | str,
    audio: Path | str,
    image: Path | str,
    settings: RenderSettings,
    size: tuple[int, int] | None = None,
) -> StreamJob:
    """Read speech and portrait from files as a model needs them. The sound is not cleaned.

    Args:
        model: directory or preset of the model, which names the speech encoder and the sizes.
        audio: any audio or video file with speech.
        image: any picture file with a face.
        settings: prompt, seed, steps.
        size: (width, height) whose product is the video's area; None for the model's default.

    Raises:
        InputError: a file cannot be used.
        CheckpointError: the model directory is incomplete.
    """
    model_dir = resolve_model_dir(model) if isinstance(model, str) else model
    config = read_config(model_dir)
    samples = isolated(load_audio, audio, beats=True)
    features = encoder_kind(config.speech).load(config.speech, model_dir).features(samples)
    return StreamJob(
        image=fit_portrait(isolated(load_portrait, image), size or config.default_area, config),
        settings=settings,
        features=TensorFeatures(features),
        num_frames=count_frames(len(samples)),
    )


def write_video(stream: Stream, path: Path | str, audio: Path | str | None = None) -> Path:
    """Render all blocks of a stream into an mp4.

    Args:
        stream: from `Engine.open`, at its first block.
        path: name of the mp4.
        audio: sound file of the video; None for a silent one.

    Raises:
        InputError: the path cannot be written.
        CapacityError: the disk is full.
    """
    height, width, _ = stream.job.image.shape
    with FilmWriter(Path(path), size=(width, height), audio=None if audio is None else Path(audio)) as video:
        for block in stream.blocks():
            assert block.frames is not None
            video.write(block.frames)
        return video.close()

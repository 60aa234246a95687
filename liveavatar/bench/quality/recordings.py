"""Natural recordings: there is no true video, so the lips are judged against the sound alone.

Each recording drives a portrait of the split and, where a picture of the same name lies beside it, that picture too.
The sound is cleaned as a render cleans it; the first `SECONDS` of it are used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.audio.enhance import enhance
from liveavatar.audio.ingest import load_audio
from liveavatar.bench.quality.videos import make_scene, render_scene
from liveavatar.engine.engine import Engine
from liveavatar.errors import InputError
from liveavatar.isolation.caller import isolated
from liveavatar.media.portrait import fit_portrait, load_portrait
from liveavatar.quality.evaluate import evaluate_video
from liveavatar.quality.split import Clip
from liveavatar.timing import SAMPLE_RATE

SOUNDS = (".wav", ".mp3", ".ogg", ".opus", ".flac", ".m4a")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SECONDS = 20.0
PROMPT = "A person speaks to the camera with natural head movement, soft natural lighting, head and shoulders shot."
MEASURES = (
    *("av_offset_frames", "av_correlation", "sync_error_frames", "lip_sync", "silent_lip", "openness_range"),
    *("identity_min", "texture_psnr", "sharpness_ratio", "flicker", "jerk_index", "motion_energy", "edge_jump"),
)


def find_files(option: str, folder: Path, kind: str, endings: tuple[str, ...]) -> list[Path]:
    """List the files of a folder with these endings, by name.

    Args:
        option: that named the folder, for errors.
        folder: to search.
        kind: of the files, for errors.
        endings: of their names, with dots.

    Raises:
        InputError: when there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{option} {folder}: there is no such folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in endings)
    if not found:
        raise InputError(f"{option} {folder}: holds no {kind} ({', '.join(endings)})")
    return found


def find_recordings(folder: Path) -> list[Path]:
    """List the sound files of a folder, by name; see `find_files`."""
    return find_files("--recordings", folder, "sound", SOUNDS)


def judge_recordings(
    engine: Engine, folder: Path, clips: list[Clip], steps: int, work: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Judge every recording with every portrait, one row each.

    Args:
        engine: a loaded model.
        folder: of the recordings.
        clips: of the split; their portraits take turns.
        steps: of denoising.
        work: folder for the videos.
        say: called with a line about each row.

    Raises:
        InputError: when the folder holds no sound.
    """
    rows = []
    for number, sound in enumerate(find_recordings(folder)):
        samples = isolated(load_audio, sound, beats=True)
        speech = enhance(samples[: round(SECONDS * SAMPLE_RATE)], "auto", "tiny.en").audio
        clip = clips[number % len(clips)]
        portraits = {f"clip {clip.info.name}": (clip.photo(), clip.info.caption)}
        own = next((sound.with_suffix(e) for e in PICTURES if sound.with_suffix(e).is_file()), None)
        if own is not None:
            portraits[own.name] = (
                fit_portrait(isolated(load_portrait, own), engine.config.default_area, engine.config),
                PROMPT,
            )
        for portrait, (photo, prompt) in portraits.items():
            row = {"recording": sound.name, "portrait": portrait, "seconds": round(len(speech) / SAMPLE_RATE, 2)}
            row |= _judge(engine, (photo, speech, prompt), steps, work / f"{sound.stem}-{portrait.replace(' ', '')}")
            rows.append(row)
            say(f"{sound.name} with {portrait}: sync error {row['sync_error_frames']}")
    return rows


def _judge(engine: Engine, given: tuple[np.ndarray, np.ndarray, str], steps: int, work: Path) -> dict[str, Any]:
    photo, speech, prompt = given
    video = render_scene(engine, make_scene(work, photo, speech, prompt, engine), steps)
    result = evaluate_video(video.path, photo, speech)
    reasons = {k: v for k, v in result.reasons.items() if k in MEASURES}
    return {name: result.metrics[name] for name in MEASURES} | {
        "note": next(iter(reasons.values()), ""), "reasons": reasons,
    }  # fmt: skip

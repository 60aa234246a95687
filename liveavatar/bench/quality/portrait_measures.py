"""Measures of one portrait's video against the picture it shows and the sound it speaks.

*Likeness* is the cosine of face embeddings; *energy* the gradient energy inside the ellipse that the landmarks fill;
the *gap* on p, b and m is the inner-lip gap where they begin or end a word. T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liveavatar.audio.transcribe import Word
from liveavatar.bench.quality.videos import Video, video_frames
from liveavatar.face.landmarks import Face, FaceTracker
from liveavatar.quality import reference
from liveavatar.quality.evaluate import evaluate_video
from liveavatar.timing import FPS

SYNC_ERROR = 1.0  # frames, the most of a portrait that speaks in sync
BILABIALS = ("p", "b", "m")
OTHER_SOUNDS = ("ps", "pn", "pt", "ph")  # spellings whose p is not heard as one
ENDINGS = (*BILABIALS, "pe", "be", "me")
AROUND = " \"'([{.,!?:;)]}"  # a word
BEFORE, AFTER = 0.16, 0.12  # seconds around the edge of a word: Whisper's times are that far off
SHUT = 0.015  # eye distances, the most of the inner-lip gap
FIRST_AGAINST = range(5, 21)  # frames that the first one is compared with
ENERGY_EVERY = 5  # frames between two whose energy is read
VIDEO_MEASURES = (
    *("av_offset_frames", "sync_error_frames", "av_correlation", "openness_range"),
    *("identity_min", "sharpness_ratio", "flicker"),
)


@dataclass(frozen=True, slots=True)
class PortraitVideo:
    """The video of a portrait, and the faces in it."""

    path: Path
    picture: np.ndarray  # what it shows, uint8 [H, W, 3] at the video's size
    frames: np.ndarray  # uint8 [T, H, W, 3]
    own: Face | None  # the picture's face
    faces: list[Face | None]  # each frame's


def read_portrait_video(video: Video, picture: np.ndarray, tracker: FaceTracker) -> PortraitVideo:
    """Read a video and find its faces."""
    frames = video_frames(video)
    own = tracker.find(picture)
    tracker.reset()
    return PortraitVideo(video.path, picture, frames, own, [tracker.track(frame) for frame in frames])


def measure_video(video: PortraitVideo, speech: np.ndarray, words: Sequence[Word]) -> dict[str, Any]:
    """Measure the video of a portrait.

    Args:
        video: to measure.
        speech: its sound, float32 mono at 16 kHz.
        words: of the sound, with their times.

    Returns:
        A value or None for each measure, whether it `speaks`, and a `note` on the first that is missing.
    """
    result = evaluate_video(video.path, video.picture, speech, threads=min(2, torch.get_num_threads()))
    values: dict[str, Any] = {name: result.metrics[name] for name in VIDEO_MEASURES}
    values["speaks"] = speaks_in_sync(values["av_offset_frames"], values["sync_error_frames"])
    values["likeness"] = _median(result.frames["identity"][result.frames["speech"]])
    gaps = bilabial_gaps([np.nan if face is None else face.openness for face in video.faces], words)
    values["bilabial_gap"] = _median(gaps)
    values["bilabials_shut"] = float((gaps <= SHUT).mean()) if len(gaps) else None
    values["energy_face"], values["energy_first"] = energies_kept(video)
    values["note"] = next((why for name, why in result.reasons.items() if name in VIDEO_MEASURES), "")
    return values


def speaks_in_sync(lag: float | None, sync_error: float | None) -> bool:
    """Tell if a video has no lag and a sync error of one frame at most."""
    return lag == 0 and sync_error is not None and sync_error <= SYNC_ERROR


def bilabial_gaps(openness_T: Sequence[float], words: Sequence[Word]) -> np.ndarray:
    """Find the least inner-lip gap around each p, b and m that begins or ends a word, eye distances."""
    gaps = []
    for word in words:
        text = word.text.strip(AROUND).lower()
        begins = text.startswith(BILABIALS) and not text.startswith(OTHER_SOUNDS)
        times = [word.start] * begins + [word.end] * text.endswith(ENDINGS)
        for time in times:
            part = openness_T[max(0, round((time - BEFORE) * FPS)) : round((time + AFTER) * FPS) + 1]
            if np.isfinite(part).any():
                gaps.append(np.nanmin(part))
    return np.array(gaps)


def energies_kept(video: PortraitVideo) -> tuple[float | None, float | None]:
    """Compute the share of the face's energy that the video keeps, and that of its first frame against later ones."""
    energies = {
        t: face_energy(video.frames[t], face)
        for t, face in enumerate(video.faces)
        if face is not None and (t % ENERGY_EVERY == 0 or t in FIRST_AGAINST)
    }
    whole = _median([energy for t, energy in energies.items() if t % ENERGY_EVERY == 0])
    after = _median([energy for t, energy in energies.items() if t in FIRST_AGAINST])
    kept = None if video.own is None or whole is None else whole / max(face_energy(video.picture, video.own), 1e-9)
    return kept, None if after is None or 0 not in energies else energies[0] / max(after, 1e-9)


def face_energy(rgb: np.ndarray, face: Face) -> float:
    """Compute the gradient energy of the face in a picture, uint8 [H, W, 3]."""
    video = reference.to_video(torch.from_numpy(rgb.copy())[None, None])
    mask = reference.face_ellipse(torch.from_numpy(face.points), rgb.shape[:2])
    return float(reference.gradient_energy(video, mask[None, None]))


def _median(values: Any) -> float | None:
    numbers = np.asarray(values, float)
    seen = numbers[np.isfinite(numbers)]
    return float(np.median(seen)) if len(seen) else None

"""A video against the true one of the same speech: mouth, lag and face, frame by frame.

Frames are paired by their time at 25 frames a second. The verdict stays that of the video alone; these numbers stand
beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from liveavatar.errors import InputError
from liveavatar.face.landmarks import Face, FaceTracker
from liveavatar.media.ffmpeg import Frame, at_fps, read_frames
from liveavatar.quality import texture
from liveavatar.quality.observe import SAMPLE_EVERY
from liveavatar.timing import FPS

MOST_LAG = 12  # frames
SHORTEST = FPS  # frames that both must show
STILL = 1e-4  # eye distances: a curve that spreads less has no correlation


@dataclass(frozen=True, slots=True)
class Against:
    """Comparison with a true video; None where one of the two does not move or shows no face."""

    frames: int  # that both show a face in
    openness_corr: float | None  # of the mouth's openness
    width_corr: float | None  # of the mouth's width
    lag_frames: int | None  # of the lips behind the true ones, where openness agrees best
    texture_psnr: float | None  # dB, of the face aligned to the true one, median


def compare_videos(
    video: Path, truth: Path, *, face: int = 0, threads: int = 1, on_progress: Callable[[], None] = lambda: None
) -> Against:
    """Compare a video with the true one.

    Args:
        video: the file that is judged.
        truth: the true one; of any size and frame rate.
        face: which face of both, the largest first; 0 the most prominent.
        threads: of the landmark networks.
        on_progress: called before every frame.

    Raises:
        InputError: a file that cannot be read, or under a second that both show a face in.
    """
    mine, true = FaceTracker(threads, face), FaceTracker(threads, face)
    rows: list[tuple[float, float, float, float]] = []
    psnr: list[float] = []
    for index, (shown, wanted) in enumerate(zip(*(at_fps(read_frames(path)) for path in (video, truth)), strict=False)):
        on_progress()
        seen, expected = mine.track(shown.rgb), true.track(wanted.rgb)
        if seen is None or expected is None:
            rows.append((np.nan,) * 4)
            continue
        rows.append((seen.openness, expected.openness, seen.mouth_width, expected.mouth_width))
        if index % SAMPLE_EVERY == 0:
            psnr.append(_alike(shown, seen, wanted, expected))
    curves = np.array(rows).reshape(-1, 4).T
    both = np.isfinite(curves).all(0)
    if both.sum() < SHORTEST:
        raise InputError(
            f"--against {truth}: the two videos show a face together for {both.sum() / FPS:.2f} s only; give the true "
            "video of the same speech, from the same start"
        )
    known = [value for value in psnr if np.isfinite(value)]
    lags = {lag: _shifted(curves[0], curves[1], lag) for lag in range(-MOST_LAG, MOST_LAG + 1)}
    found = {lag: value for lag, value in lags.items() if value is not None}
    return Against(
        frames=int(both.sum()),
        openness_corr=_rounded(_correlation(curves[0], curves[1])),
        width_corr=_rounded(_correlation(curves[2], curves[3])),
        lag_frames=max(found, key=lambda lag: (found[lag], -abs(lag))) if found else None,
        texture_psnr=_rounded(float(np.median(known)), 2) if known else None,
    )


def _alike(shown: Frame, seen: Face, wanted: Frame, expected: Face) -> float:
    reference = texture.portrait_texture(wanted.rgb, expected, seen.eye_distance)
    return texture.texture_psnr(shown.rgb, seen, reference)


def _shifted(shown_T: np.ndarray, true_T: np.ndarray, lag: int) -> float | None:
    total = len(shown_T)
    return _correlation(shown_T[max(0, lag) : total + min(0, lag)], true_T[max(0, -lag) : total - max(0, lag)])


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2 or a[known].std() < STILL or b[known].std() < STILL:
        return None
    return float(np.corrcoef(a[known], b[known])[0, 1])


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)

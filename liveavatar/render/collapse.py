"""Alarm for a long video that falls apart while it is rendered: likeness, sharpness and motion, in windows of 10 s.

Long videos of autoregressive models decay: the face blurs, becomes another one, or stops. A window is bad when one
measure left the range of the first window; two bad windows in a row are a collapse, for a glitch passes. Frames are
read at *samples*, one in two seconds, beside the render in a thread of its own; a sample counts when the next one is
due, so the same frames end at the same place.
"""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from liveavatar.files import is_intact, open_regular, parse_json, read_bytes, signed
from liveavatar.timing import FPS

log = logging.getLogger(__name__)

SAMPLE_FRAMES = 50
WINDOW_SAMPLES = 5
WINDOW_FRAMES = SAMPLE_FRAMES * WINDOW_SAMPLES
SHORTEST = 3 * WINDOW_FRAMES  # frames of a video that can collapse: a good window and two bad ones
STRIDE = 4  # pixels between those whose change is measured
FACE_MARGIN = 1.2  # eye distances around the middle of the eyes in which sharpness is read
# Shares of the first window between which a measure is good. They are wide: a head that turns loses likeness, one that
# falls silent moves less, and neither is a collapse.
GOOD = {"likeness": (0.7, np.inf), "sharpness": (0.6, 2.0), "motion": (0.1, np.inf)}
WORDS = {
    "likeness": "the face is no longer that of the portrait",
    "sharpness": "the face has lost its detail",
    "motion": "the picture stands still",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Readings of two seconds: of their last frame, and the mean change between their frames."""

    frame: int  # index of that frame
    likeness: float | None  # cosine to the portrait, 0 without a face; None when it cannot be measured
    sharpness: float | None  # mean gradient of the face, grey levels
    motion: float  # mean absolute difference of successive frames, grey levels


@dataclass(frozen=True, slots=True)
class Collapse:
    """Fall of a video's quality that did not come back."""

    frame: int  # from which it is bad
    measure: str
    share: float  # of the first window, in the last one

    @property
    def seconds(self) -> float:
        """Time from which the video is bad."""
        return self.frame / FPS

    def __str__(self) -> str:
        """Describe it for the user."""
        return (
            f"from {self.seconds:.0f} s on {WORDS[self.measure]} "
            f"({self.measure} at {self.share:.0%} of the first ten seconds), and it did not come back"
        )


def is_watched(num_frames: int | None, ignore_collapse: bool) -> bool:
    """Tell if a collapse ends a video: not one that is shown live, nor one that is too short for it."""
    return num_frames is not None and num_frames >= SHORTEST and not ignore_collapse


class FaceWatch:
    """Likeness and sharpness of a face against those of a portrait."""

    def __init__(self, portrait: np.ndarray) -> None:
        """Load the networks and read the portrait (uint8 RGB [H, W, 3])."""
        from liveavatar.face.embedding import IdentityNet
        from liveavatar.face.landmarks import FaceTracker
        from liveavatar.face.models import FaceModelUnavailable

        self._portrait: np.ndarray | None = None
        try:
            self._tracker, self._identity = FaceTracker(1), IdentityNet()
        except FaceModelUnavailable as e:
            log.debug("faces are not watched: %s", e)
            return
        face = self._tracker.find(portrait)
        if face is not None:
            self._portrait = self._identity.embed(portrait, face)

    def read(self, rgb: np.ndarray) -> tuple[float | None, float | None]:
        """Read a frame: likeness and sharpness."""
        if self._portrait is None:
            return None, None
        face = self._tracker.find(rgb)
        if face is None:
            return 0.0, None
        x, y = face.points.mean(0)
        reach = FACE_MARGIN * face.eye_distance
        rows, columns = (slice(max(0, round(at - reach)), max(0, round(at + reach))) for at in (y, x))
        return float(self._identity.embed(rgb, face) @ self._portrait), gradient(rgb[rows, columns])


def gradient(rgb: np.ndarray) -> float | None:
    """Measure the mean gradient of a picture (uint8 RGB [H, W, 3]) in grey levels a pixel; None if it is too small."""
    if min(rgb.shape[:2]) < 2:
        return None
    grey = rgb.astype(np.float32).mean(2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


class CollapseWatch:
    """Reads the frames of one video as they are made."""

    def __init__(self, portrait: np.ndarray, ledger: Path) -> None:
        """Watch a video.

        Args:
            portrait: uint8 RGB [H, W, 3], as the model takes it.
            ledger: file of the samples, from which a resumed render goes on.
        """
        self._portrait, self._ledger = portrait, ledger
        self._samples: list[Sample] = []
        self._face: FaceWatch | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collapse")
        self._coming: Future[Sample] | None = None
        self._before: np.ndarray | None = None
        self._changes: list[float] = []

    def begin(self, num_frames: int) -> None:
        """Begin anew, or after so many frames of an interrupted render."""
        kept = [sample for sample in read_samples(self._ledger) if sample.frame < num_frames]
        self._ledger.unlink(missing_ok=True)
        for sample in kept:
            self._keep(sample)

    def add(self, frames: np.ndarray, first: int) -> Collapse | None:
        """Read frames; return the collapse as soon as there is one.

        Args:
            frames: uint8 RGB [T, H, W, 3].
            first: index of the first of them.
        """
        for index, frame in enumerate(frames, first):
            small = frame[::STRIDE, ::STRIDE].astype(np.int16)
            if self._before is not None:
                self._changes.append(float(np.abs(small - self._before).mean()))
            self._before = small
            if (index + 1) % SAMPLE_FRAMES == 0:
                collapse = self.take()
                if collapse is not None:
                    return collapse
                motion, self._changes = float(np.mean(self._changes)), []
                self._coming = self._thread.submit(self._sample, index, frame.copy(), motion)
        return None

    def take(self) -> Collapse | None:
        """Wait for the sample that is being read; return the collapse that it makes."""
        if self._coming is None:
            return None
        sample, self._coming = self._coming.result(), None
        self._keep(sample)
        return find_collapse(self._samples)

    def _sample(self, index: int, frame: np.ndarray, motion: float) -> Sample:
        if self._face is None:
            self._face = FaceWatch(self._portrait)
        return Sample(index, *self._face.read(frame), motion)

    def _keep(self, sample: Sample) -> None:
        self._samples.append(sample)
        with open_regular(self._ledger, "a") as file:
            file.write(json.dumps(signed(asdict(sample))) + "\n")


def read_samples(ledger: Path) -> list[Sample]:
    """Read the samples of an interrupted render, up to the first damaged one."""
    samples: list[Sample] = []
    try:
        for line in read_bytes(ledger).splitlines():
            record = parse_json(line)
            if not is_intact(record):
                break
            samples.append(Sample(**{name: value for name, value in record.items() if name != "sha256"}))
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError):
        log.debug("%s is damaged after %d samples", ledger, len(samples))
    return samples


def find_collapse(samples: Sequence[Sample]) -> Collapse | None:
    """Find a measure that is bad in the last two windows of `samples`; one that a crash has taken may be missing."""
    count = (samples[-1].frame + 1) // SAMPLE_FRAMES if samples else 0
    if count < 3 * WINDOW_SAMPLES or count % WINDOW_SAMPLES:
        return None
    for measure, (least, most) in GOOD.items():
        values = np.full(count, np.nan)
        for sample in samples:
            values[sample.frame // SAMPLE_FRAMES] = getattr(sample, measure)
        usual = _median(values[:WINDOW_SAMPLES])
        if usual is None or usual <= 0:
            continue
        shares = values / usual
        last = [_median(window) for window in np.split(shares[-2 * WINDOW_SAMPLES :], 2)]
        if any(share is None or least <= share <= most for share in last):
            continue
        good = np.flatnonzero((shares[: -2 * WINDOW_SAMPLES] >= least) & (shares[: -2 * WINDOW_SAMPLES] <= most))
        return Collapse((int(good[-1]) + 1) * SAMPLE_FRAMES, measure, cast(float, last[-1]))
    return None


def _median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None

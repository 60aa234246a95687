"""Clip files on disk: memory-mapped frames and their labels, written while clips are rendered.

A *clip file* is `{portrait|landscape}_{rank}.npy` (held-out: `eval_...`), uint8 [capacity, T + 1, H, W, 3], whose
last frame is the reference photo, and `{same}.labels.npz`. Training clips have another photo each, in another light
and mostly before another backdrop, in `{same}.other.npy`, uint8 [capacity, H, W, 3], with a caption of its own. Labels
are rewritten every few clips through a temporary file and tell the number of valid clips, so a killed writer loses
only its last few.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.errors import InputError
from liveavatar.files import replacing
from liveavatar.training.corpus.head.motion import FOLLOW

ORIENTATIONS = ("portrait", "landscape")
SPEEDS = (1.0, 0.9, 1.1)  # copies of every training track; clip labels number them in this order
_ARRAYS = ("landmarks", "expression", "head", "gaze", "tracks", "blocks", "seeds")


@dataclass(frozen=True, slots=True)
class OtherPhoto:
    """Second reference photo of a clip: same person and pose, other lighting."""

    picture: np.ndarray  # uint8 [H, W, 3]
    caption: str  # of the clip; names the differences between the clip and this photo


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipLabels:
    """Ground truth of one clip of T frames and its photo."""

    landmarks: np.ndarray  # float32 [T+1, 68, 2] pixels, x then y; Multi-PIE order
    expression: np.ndarray  # float16 [T+1, K]
    head: np.ndarray  # float32 [T+1, 3] yaw, pitch, roll, radians
    gaze: np.ndarray  # float32 [T+1, 2] yaw, pitch against the head, radians
    track: int  # in load_tracks(folder, split, speeds)
    block: int  # of the track, at which the clip starts
    seed: int
    caption: str
    other: OtherPhoto | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFile:
    """The valid clips of one file."""

    path: Path
    frames: np.ndarray  # uint8 memory map [n, T+1, H, W, 3]
    landmarks: np.ndarray  # [n, T+1, 68, 2]
    expression: np.ndarray  # [n, T+1, K]
    head: np.ndarray
    gaze: np.ndarray
    tracks: np.ndarray  # [n]
    blocks: np.ndarray  # [n]
    seeds: np.ndarray  # [n]
    others: np.ndarray  # uint8 memory map [n, H, W, 3], the other photos; the photos where there are none
    captions: list[str]
    other_captions: list[str]
    expression_names: list[str]

    @property
    def eyes(self) -> np.ndarray:
        """Eye tracks, float32 [n, T+1, 3]: lid closure, gaze yaw and pitch, see `eye_tracks`."""
        return eye_tracks(self.expression, self.expression_names, self.head, self.gaze)


def eye_tracks(expression: np.ndarray, names: list[str], head: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """Compute eye tracks, float32 [..., T, 3], in the format of `liveavatar.pose.blinks`.

    Lid closure counts blinks only, not lids that follow eyes looking down.

    Args:
        expression: [..., T, K].
        names: of the K expression shapes.
        head: [..., T, 3] radians.
        gaze: [..., T, 2] against the head, radians.
    """
    both = [names.index(f"eyeBlink_{side}") for side in "LR"]
    lids = expression[..., both].mean(-1, dtype=np.float32)
    return np.concatenate((lids[..., None], gaze + FOLLOW * head[..., :2]), axis=-1, dtype=np.float32)


def _labels_path(frames: Path) -> Path:
    return frames.with_suffix(".labels.npz")


def _others_path(frames: Path) -> Path:
    return frames.with_suffix(".other.npy")


@dataclass(slots=True)
class ClipWriter:
    """Writer of one clip file; create with `open`."""

    path: Path
    frames: np.memmap
    expression_names: list[str]
    others: np.memmap | None = None
    every: int = 10  # clips between two writings of the labels
    rows: list[ClipLabels] = field(default_factory=list)
    other_captions: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls, path: Path, shape: tuple[int, int, int, int], capacity: int, names: list[str], others: bool = False
    ) -> "ClipWriter":
        """Create a file for clips of shape (T + 1, H, W, 3), and one for other photos with `others`.

        The files are sparse: disk space is used only as clips arrive.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for beside in (_labels_path(path), _others_path(path)):
            beside.unlink(missing_ok=True)
        create = np.lib.format.open_memmap
        writer = cls(path, create(path, "w+", np.uint8, (capacity, *shape)), names)
        if others:
            writer.others = create(_others_path(path), "w+", np.uint8, (capacity, *shape[1:]))
        return writer

    @property
    def full(self) -> bool:
        """True once the capacity is used up."""
        return len(self.rows) >= len(self.frames)

    def add(self, frames: np.ndarray, labels: ClipLabels) -> None:
        """Append a clip [T + 1, H, W, 3].

        Raises:
            ValueError: when the clip has another photo and the file holds none, or the other way round.
        """
        if (self.others is None) != (labels.other is None):
            raise ValueError(f"{self.path}: all clips of a file have another photo, or none")
        self.frames[len(self.rows)] = frames
        if self.others is not None and labels.other is not None:
            self.others[len(self.rows)] = labels.other.picture
            self.other_captions.append(labels.other.caption)
        self.rows.append(replace(labels, other=None))  # so that no picture stays in memory
        if len(self.rows) % self.every == 0:
            self.write_labels()

    def write_labels(self) -> None:
        """Write the labels of all clips so far; delete a file without clips."""
        if not self.rows:
            self.path.unlink(missing_ok=True)
            _others_path(self.path).unlink(missing_ok=True)
            return
        self.frames.flush()
        if self.others is not None:
            self.others.flush()
        arrays: dict[str, Any] = {
            "landmarks": np.stack([r.landmarks for r in self.rows]).astype(np.float32),
            "expression": np.stack([r.expression for r in self.rows]).astype(np.float16),
            "head": np.stack([r.head for r in self.rows]).astype(np.float32),
            "gaze": np.stack([r.gaze for r in self.rows]).astype(np.float32),
            "tracks": np.array([r.track for r in self.rows]),
            "blocks": np.array([r.block for r in self.rows]),
            "seeds": np.array([r.seed for r in self.rows]),
        }
        words = {"captions": [r.caption for r in self.rows], "expression_names": self.expression_names}
        if self.others is not None:
            words["other_captions"] = self.other_captions
        text = json.dumps(words)
        with replacing(_labels_path(self.path)) as temporary, temporary.open("wb") as file:
            np.savez(file, text=np.frombuffer(text.encode(), np.uint8), **arrays)


def list_clips(folder: Path, split: str) -> list[ClipFile]:
    """Open the clip files of a split ("train" or "eval"), sorted by name; skip files without labels.

    Raises:
        InputError: when a file and its labels do not fit together.
    """
    prefix = {"train": "", "eval": "eval_"}[split]
    paths = sorted(p for o in ORIENTATIONS for p in folder.glob(f"{prefix}{o}_*.npy") if _labels_path(p).is_file())
    return [_open(p) for p in paths]


def _open(path: Path) -> ClipFile:
    with np.load(_labels_path(path)) as raw:
        arrays = {k: raw[k] for k in _ARRAYS}
        text = json.loads(raw["text"].tobytes().decode())
    frames = np.load(path, mmap_mode="r")
    count = len(arrays["tracks"])
    fits = count <= len(frames) and arrays["landmarks"].shape[1] == frames.shape[1]
    others, other_captions = frames[:, -1], text.pop("other_captions", None)
    if other_captions is not None and _others_path(path).is_file():
        others = np.load(_others_path(path), mmap_mode="r")
        fits = fits and count <= len(others) and count == len(other_captions) and others.shape[1:] == frames.shape[2:]
    else:
        other_captions = text["captions"]
    if not fits:
        raise InputError(f"{path} and its labels are of different runs; delete both and render again")
    return ClipFile(
        path=path, frames=frames[:count], others=others[:count], other_captions=other_captions, **arrays, **text
    )

"""Archives of a training run's results, as files of bounded size: folders, logs and measures, a few held-out clips."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from liveavatar.files import write_atomically
from liveavatar.training import runtime
from liveavatar.training.corpus.layout import ClipFile, list_clips

PART_BYTES = 15 * 2**20  # of every file written
HELD_OUT_BYTES = 9 * 2**20
LARGEST_REPORT = 6_000_000  # bytes of one file; of longer logs the end is kept
REPORTED = (
    "*.jsonl", f"{runtime.REFINED}/*.jsonl", "copying/*.jsonl", "evaluation.json", "config.json", "sheet_*.jpg",
    "logs/*.log", "probe.pt",
)  # fmt: skip


def pack_folder(folder: Path, out: Path, stem: str) -> list[Path]:
    """Pack a folder into `stem.tar.00`, `stem.tar.01`...; `cat stem.tar.* | tar x` restores it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(folder, arcname=stem)
    data = stream.getvalue()
    paths = []
    for i, start in enumerate(range(0, len(data), PART_BYTES)):
        paths.append(out / f"{stem}.tar.{i:02d}")
        write_atomically(paths[-1], data[start : start + PART_BYTES])  # the folder may be copied at any moment
    return paths


def pack_report(work: Path, out: Path) -> None:
    """Pack the logs and measures of a run in `work` as the folder `report`."""
    report = work / "report"
    report.mkdir(exist_ok=True)
    for file in (path for pattern in REPORTED for path in work.glob(pattern)):
        name = f"{'refined_' if file.parent.name == runtime.REFINED else ''}{file.name}"
        (report / name).write_bytes(file.read_bytes()[-LARGEST_REPORT:])
    pack_folder(report, out, "report")


def pack_held_out(data: Path, path: Path, quality: int = 80) -> int:
    """Pack held-out clips as WebP frames with labels, as many whole clips as fit; return the number of clips.

    Member names are `{file stem}/{clip}/{frame:03d}.webp`, the photo being the last frame, and `labels.npz`
    (landmarks, head, tracks, blocks, seeds, captions) beside them.
    """
    files = list_clips(data, "eval")
    most = max((len(f.frames) for f in files), default=0)
    num_packed = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(most):
            for file in files:
                if number >= len(file.frames):
                    continue
                members = _clip_members(file, number, quality)
                size = sum(len(m) for m in members.values())
                if archive.fp is not None and archive.fp.tell() + size > HELD_OUT_BYTES:
                    return num_packed
                for name, content in members.items():
                    archive.writestr(name, content)
                num_packed += 1
    return num_packed


def _clip_members(file: ClipFile, number: int, quality: int) -> dict[str, bytes]:
    folder = f"{file.path.stem}/{number}"
    members = {}
    for t, frame in enumerate(file.frames[number]):
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame)).save(stream, "WEBP", quality=quality)
        members[f"{folder}/{t:03d}.webp"] = stream.getvalue()
    stream = io.BytesIO()
    np.savez_compressed(
        stream, landmarks=file.landmarks[number], head=file.head[number], track=file.tracks[number],
        block=file.blocks[number], seed=file.seeds[number], caption=np.array(file.captions[number]),
    )  # fmt: skip
    members[f"{folder}/labels.npz"] = stream.getvalue()
    return members

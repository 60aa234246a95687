"""Damage to files on disk: one bit flipped, or the end cut off."""

import json
from pathlib import Path

SNAPSHOTS = "work/*/snapshots/*.safetensors"
WHERE = {  # file kind: pattern below a home
    "newest snapshot": SNAPSHOTS,
    "all snapshots": SNAPSHOTS,
    "latents": "work/*/latents.bin",
    "blocks": "work/*/blocks.jsonl",
    "segments": "work/*/segments.jsonl",
    "video": "work/*/video.mp4",
    "live segment": "work/*/live/*.m4s",
    "finished record": "work/*/finished.json",
    "finished video": "work/*/video.mp4",
    "finished latents": "work/*/latents.bin",
    "digests": "digests/*.json",
    "speed": "speed/*.json",
    "database version": "prefect/database_version",
    "ray token": "ray_token",
    "run record": "catalogue/*.json",
}
UNLISTED = {
    "manifest.json",
    "report.html",
    "report.json",
    "sheet.jpg",
}  # in an output folder, not among the manifest's outputs
PUBLISHED = {  # below an output folder
    "published video": "video.mp4",
    "published manifest": "manifest.json",
    "published latents": "latents.bin",
    "published table": "frames.parquet",
}


def files_of(kind: str, home: Path, out: Path, moment: float) -> list[Path]:
    """Find the files of a kind; of several alike the one that `moment` chooses, or all where the kind says so."""
    if kind in PUBLISHED:
        return [out / PUBLISHED[kind]]
    found = sorted(home.glob(WHERE.get(kind, f"store/*/??/*/{kind}")))
    if kind == "newest snapshot":
        return found[-1:]
    if kind == "all snapshots":
        return found
    return found[int(moment * len(found)) :][:1]


def damage(path: Path, how: str, moment: float) -> None:
    """Damage a file.

    Args:
        path: of the file.
        how: one of `tests.soak.case.DAMAGE`.
        moment: which bit, or how much is left.
    """
    data = bytearray(path.read_bytes())
    if how == "cut short":
        path.write_bytes(data[: int(moment * len(data))])
        return
    bit = int(moment * 8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def stray(out: Path, home: Path) -> list[str]:
    """List what a run must not leave: anything but the film beside it, half-built entries, what is in no manifest."""
    left = [p.name for p in out.parent.iterdir() if p != out] if out.parent.exists() else []
    left += [str(p.relative_to(home)) for p in home.glob("store/building/*")]
    if out.exists():
        listed = set(json.loads((out / "manifest.json").read_text())["outputs"]) | UNLISTED
        left += [n for p in out.rglob("*") if p.is_file() and (n := p.relative_to(out).as_posix()) not in listed]
    return left

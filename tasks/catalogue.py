"""Catalogue of published runs in the home: where each run lies, what it was made of and how it went.

A record stays when its folder is gone. What may be read in the folder is what the run's own manifest lists, as long
as the folder still holds that run.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.files import content_digest, is_intact, newest_first, read_json, signed, write_json
from tasks.run_folder import CHANGING, MANIFEST, PAGE, VIDEO, origin_of, outputs_of

RUN_ID = re.compile(r"[0-9a-f]{32}")
KEPT = 10_000  # records; older ones go


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueRecord:
    """A published run."""

    id: str
    out: str  # absolute folder
    name: str  # sound and portrait
    status: str  # passed, warned, failed
    video_sha256: str
    finished: float  # s since 1970
    stages: dict[str, str] = field(default_factory=dict)  # stage -> key of its entry in the store
    facts: dict[str, Any] = field(default_factory=dict)  # of `facts_of`

    @property
    def row(self) -> dict[str, Any]:
        """The record as a row of a table: one column a fact, one a stage."""
        values = {name: value for name, value in asdict(self).items() if name not in ("stages", "facts")}
        return values | self.facts | {f"{stage}_key": key for stage, key in self.stages.items()}

    @property
    def folder(self) -> Path | None:
        """The folder, as long as it holds this run."""
        return Path(self.out) if outputs_of(Path(self.out)).get(VIDEO) == self.video_sha256 else None

    def file(self, name: str) -> Path | None:
        """Return a file of this run by its name in the manifest; None for any other name."""
        folder = Path(self.out)
        outputs = outputs_of(folder)
        if outputs.get(VIDEO) != self.video_sha256 or name not in {MANIFEST, *CHANGING, *outputs}:
            return None
        path = folder / name
        return path if path.resolve().is_relative_to(folder.resolve()) and path.is_file() else None


def facts_of(manifest: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Collect the facts of a run that its record keeps: inputs, options, code, speed, measures; None where unknown."""
    inputs, parameters, code = (manifest.get(name, {}) for name in ("inputs", "parameters", "code"))
    timing, video = report.get("timing", {}), report.get("video", {})
    options = ("prompt", "preset", "seed", "sample_steps", "size", "framing", "placement")
    speeds = ("fps", "ttff_s", "total_s", "block_ms_p50", "block_ms_p99", "deadline_misses", "cached_tasks")
    named = {
        "audio": inputs.get("audio", {}).get("name"),
        "audio_sha256": inputs.get("audio", {}).get("sha256"),
        "seconds": inputs.get("audio", {}).get("seconds"),
        "image": inputs.get("image", {}).get("name"),
        "image_sha256": inputs.get("image", {}).get("sha256"),
        "pose_video": inputs.get("pose_video", {}).get("name"),
        "model": manifest.get("model", {}).get("name"),
        "model_sha256": manifest.get("model", {}).get("sha256"),
        "version": code.get("version"),
        "commit": code.get("commit"),
        "origin": _origin(manifest),
        "latents_sha256": manifest.get("latents_sha256"),
        "machine": manifest.get("machine"),
        "device": manifest.get("device"),
        "width": video.get("width"),
        "height": video.get("height"),
        "frames": video.get("num_frames"),
    }
    return {
        **named,
        **{name: parameters.get(name) for name in options},
        **{name: timing.get(name) for name in speeds},
        **report.get("metrics", {}),
    }


def _origin(manifest: dict[str, Any]) -> str | None:
    try:
        return origin_of(manifest["stages"]["render"])
    except (KeyError, TypeError, AttributeError):
        return None


def record_run(out: Path, manifest: dict[str, Any], report: dict[str, Any]) -> CatalogueRecord:
    """Note a published run, and forget all but the newest.

    Args:
        out: its folder.
        manifest: content of its manifest.json.
        report: content of its report.json.
    """
    place, video = str(out.resolve()), str(manifest["outputs"][VIDEO])
    sound, image = (Path(str(manifest["inputs"][kind]["name"])).stem for kind in ("audio", "image"))
    run = CatalogueRecord(
        id=hashlib.sha256(f"{place}\n{video}".encode()).hexdigest()[:32],
        out=place,
        name=f"{sound}, {image}",
        status=str(report["status"]),
        video_sha256=video,
        finished=time.time(),
        stages={stage: str(parts["key"]) for stage, parts in manifest.get("stages", {}).items()},
        facts=facts_of(manifest, report),
    )
    record = paths.catalogue() / f"{run.id}.json"
    write_json(record, signed(asdict(run)))
    os.utime(record, (run.finished, run.finished))  # the order of the records, without reading them
    for old in newest_first(paths.catalogue().glob("*.json"))[KEPT:]:
        old.unlink(missing_ok=True)
    return run


def recorded_runs(most: int = KEPT) -> list[CatalogueRecord]:
    """List the newest recorded runs, newest first."""
    runs = (find_run(path.stem) for path in newest_first(paths.catalogue().glob("*.json"))[:most])
    return [run for run in runs if run is not None]


def runs_by_entry(runs: Iterable[CatalogueRecord]) -> dict[tuple[str, str], list[CatalogueRecord]]:
    """Map entries of the store, by stage and key, to the runs that were made of them."""
    uses: dict[tuple[str, str], list[CatalogueRecord]] = {}
    for run in runs:
        for entry in run.stages.items():
            uses.setdefault(entry, []).append(run)
    return uses


def find_run(run_id: str) -> CatalogueRecord | None:
    """Read the record of a run; None where there is none."""
    if not RUN_ID.fullmatch(run_id):
        return None
    try:
        record = read_json(paths.catalogue() / f"{run_id}.json")
        if not is_intact({"sha256": content_digest(record), **record}):  # older records have no digest
            return None
        run = CatalogueRecord(**{name: value for name, value in record.items() if name != "sha256"})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return run if _is_sound(run, run_id) else None


def _is_sound(run: CatalogueRecord, run_id: str) -> bool:
    texts = (run.out, run.name, run.status, run.video_sha256)
    return (
        run.id == run_id
        and isinstance(run.finished, int | float)
        and isinstance(run.facts, dict)
        and isinstance(run.stages, dict)
        and all(isinstance(text, str) for text in (*texts, *run.stages.values()))
    )


def damaged_records() -> list[Path]:
    """List the files of the catalogue that hold no record."""
    return [path for path in sorted(paths.catalogue().glob("*.json")) if find_run(path.stem) is None and path.exists()]


def forget_run(run: CatalogueRecord) -> None:
    """Delete the record of a run; its folder stays."""
    (paths.catalogue() / f"{run.id}.json").unlink(missing_ok=True)


def page_path(run_id: str, name: str = PAGE) -> str:
    """Make the path of a run's file on the page of `liveavatar serve`."""
    return f"runs/{run_id}/{name}"


def page_url(run_id: str, name: str = PAGE) -> str:
    """Make the address of a run's file on the page of `liveavatar serve`."""
    return paths.page_url() + page_path(run_id, name)

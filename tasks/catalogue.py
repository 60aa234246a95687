"""Catalogue of published runs in the home: where each run lies, for pages that show it.

A record is small and names a folder; what may be read there is what the run's own manifest lists, as long as the folder
still holds that run.
"""

import hashlib
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.files import newest_first, read_json, write_json
from tasks.manifest import CHANGING, MANIFEST, PAGE, outputs_of

VIDEO = "video.mp4"
RUN_ID = re.compile(r"[0-9a-f]{32}")
KEPT = 1000  # records; older ones go


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueRecord:
    """A published run."""

    id: str
    out: str  # absolute folder
    name: str  # sound and portrait
    status: str  # passed, warned, failed
    video_sha256: str
    finished: float  # s since 1970

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


def record_run(out: Path, manifest: dict[str, Any], status: str) -> CatalogueRecord:
    """Note a published run, and forget all but the newest."""
    place, video = str(out.resolve()), str(manifest["outputs"][VIDEO])
    sound, image = (Path(str(manifest["inputs"][kind]["name"])).stem for kind in ("audio", "image"))
    run = CatalogueRecord(
        id=hashlib.sha256(f"{place}\n{video}".encode()).hexdigest()[:32],
        out=place,
        name=f"{sound}, {image}",
        status=status,
        video_sha256=video,
        finished=time.time(),
    )
    record = paths.catalogue() / f"{run.id}.json"
    write_json(record, asdict(run))
    os.utime(record, (run.finished, run.finished))  # the order of the records, without reading them
    for old in newest_first(paths.catalogue().glob("*.json"))[KEPT:]:
        old.unlink(missing_ok=True)
    return run


def recorded_runs(most: int = KEPT) -> list[CatalogueRecord]:
    """List the newest recorded runs, newest first."""
    runs = (find_run(path.stem) for path in newest_first(paths.catalogue().glob("*.json"))[:most])
    return [run for run in runs if run is not None]


def find_run(run_id: str) -> CatalogueRecord | None:
    """Read the record of a run; None where there is none."""
    if not RUN_ID.fullmatch(run_id):
        return None
    try:
        return CatalogueRecord(**read_json(paths.catalogue() / f"{run_id}.json"))
    except (OSError, ValueError, TypeError):
        return None


def page_path(run_id: str, name: str = PAGE) -> str:
    """Make the path of a run's file on the page of `liveavatar serve`."""
    return f"runs/{run_id}/{name}"


def page_url(run_id: str, name: str = PAGE) -> str:
    """Make the address of a run's file on the page of `liveavatar serve`."""
    return paths.page_url() + page_path(run_id, name)

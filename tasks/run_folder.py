"""Files of a run's output folder and what its manifest says of them. Loads neither Prefect nor torch."""

from pathlib import Path
from typing import Any

from liveavatar.files import read_json

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
VIDEO = "video.mp4"
CHANGING = (REPORT, PAGE)  # say how the run went, not only what it made


def stages_of(out: Path) -> dict[str, dict[str, Any]]:
    """Read the parts of each stage's key from the manifest in a folder; empty where there is none."""
    try:
        return dict(read_json(out / MANIFEST)["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def outputs_of(out: Path) -> dict[str, str]:
    """Read the names and digests of a run's files from the manifest in a folder; empty where there is none."""
    try:
        return dict(read_json(out / MANIFEST)["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}

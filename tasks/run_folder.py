"""Files of a run's output folder and what its manifest says of them. Loads neither Prefect nor torch."""

from pathlib import Path
from typing import Any

from liveavatar.files import read_json
from tasks.store.keys import job_key

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
VIDEO = "video.mp4"
SHEET = "sheet.jpg"
CHANGING = (REPORT, PAGE, SHEET)  # say how the run went, not only what it made


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


def origin_of(render: dict[str, Any]) -> str:
    """Compute the digest of everything that a video depends on, from the parts of the key of its render.

    It is the key without the one part that changes no byte of the video: whether it was live.

    Raises:
        KeyError, TypeError, AttributeError: these are no such parts.
    """
    inputs = {name: value for name, value in render["inputs"].items() if name != "online"}
    return job_key("video", inputs=inputs, code=render["code"], packages=render["packages"])

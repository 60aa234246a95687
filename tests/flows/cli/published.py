"""A published run for tests: an output folder and its record, without a render."""

import json
from pathlib import Path
from typing import Any

from liveavatar.files import sha256
from tasks.catalogue import CatalogueRecord, record_run

PACKAGES = {"torch": "2.13.0"}


def manifest_of(out: Path, stages: dict[str, str], **parameters: Any) -> dict[str, Any]:
    """Make a manifest of the files in a folder."""
    files = {name: out.parent / name for name in ("voice.wav", "anna.png")}
    for file in files.values():
        file.touch()
    audio, image = ({"name": file.name, "sha256": sha256(file)} for file in files.values())
    options = {"audio": str(files["voice.wav"]), "image": str(files["anna.png"]), "prompt": "A man.", "seed": 7}
    return {
        "inputs": {"audio": audio | {"seconds": 2.5}, "image": image},
        "parameters": {**options, "model": "mini", **parameters},
        "latents_sha256": "1" * 64,
        "code": {"version": "1.0", "commit": None},
        **{"machine": "x86_64", "device": "cpu", "dtype": "bfloat16"},
        "stages": {
            stage: {"key": key, "inputs": {}, "code": {}, "packages": PACKAGES} for stage, key in stages.items()
        },
        "outputs": {"video.mp4": sha256(out / "video.mp4")},
    }


def publish(out: Path, status: str = "passed", video: bytes = b"video", **stages: str) -> CatalogueRecord:
    """Fill a folder as a run does, and record it.

    Args:
        out: the folder.
        status: verdict.
        video: content of its file.
        stages: stage -> key.
    """
    out.mkdir(parents=True)
    (out / "video.mp4").write_bytes(video)
    manifest = manifest_of(out, stages)
    (out / "manifest.json").write_text(json.dumps(manifest))
    report = {
        "status": status,
        "timing": {"fps": 12.5, "deadline_misses": 3},
        "metrics": {"lip_sync": 0.25, "silent_lip": None},
        "video": {"width": 64, "height": 48, "num_frames": 62},
    }
    return record_run(out, manifest, report)

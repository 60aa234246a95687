"""Prefect shell of the last stage: report, manifest, the output folder in one step, artifacts for the Prefect UI.

The folder is built whole beside its place and swapped in, so whatever stands at the place is always whole: the old
run, or the new one.
"""

import datetime
import fcntl
import glob
import json
import logging
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from liveavatar import __version__, config
from liveavatar.files import disk_errors, plain, sha256, sync_tree, write_atomically
from tasks.enhance import CLEANED, WORDS
from tasks.features import FEATURES
from tasks.ingest import PORTRAIT
from tasks.plan import kv_dtype_of
from tasks.quality import BLOCKS_TABLE, FRAMES_TABLE
from tasks.render import LATENTS, LIVE, VIDEO
from tasks.stage import stage
from tasks.store.keys import code_digest, job_key, package_versions
from tasks.store.model import files_of
from tasks.store.store import Entry, Store

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
CODE = ("liveavatar.render.job", "liveavatar.report.page", "liveavatar.quality.suites", "liveavatar.audio.preprocess")
CHANGING = (REPORT, PAGE)  # say how the run went, not only what it made
PACKAGES = (
    *("torch", "numpy", "scipy", "safetensors", "av", "imageio-ffmpeg", "noisereduce", "openai-whisper", "prefect"),
    *("ray", "great-expectations", "pandas", "pyarrow", "pillow", "ai-edge-litert", "opencv-python-headless"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What the stages before made."""

    sound: Entry
    portrait: Entry
    cleaned: Entry
    features: Entry
    prompt: Entry
    plan: dict[str, Any]
    rendered: Entry
    quality: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Which run is published where."""

    out: Path
    audio: Path  # as the user gave it
    image: Path
    pose_video: Path | None
    model_dir: Path
    model_digest: str
    parameters: dict[str, Any]
    total_s: float
    cached_tasks: int
    audio_name: str | None = None  # where it was no file


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """A published run."""

    out: Path
    report: dict[str, Any]
    hit: bool  # the folder held this very run already


@stage("publish")
def publish(results: Results, run: Publication) -> PublishedRun:
    """Put a run into its output folder and its artifacts into the Prefect UI.

    Raises:
        CapacityError: the disk is full or the folder may not be written.
    """
    manifest = make_manifest(results, run)
    place = job_key("place", out=str(run.out.resolve()))
    with disk_errors(run.out), Store().lock("publish", place), _alone_below(run.out.parent):
        standing = holds(run.out, manifest)  # perhaps since a moment ago, by another run of the same job
        report = make_report(results, run, cached_tasks=run.cached_tasks + standing)
        if standing:
            write_atomically(run.out / REPORT, _json(report))
        else:
            _swap_in(run.out, results, report, manifest)
    _artifacts(run.out, report)
    return PublishedRun(out=run.out, report=report, hit=standing)


@contextmanager
def _alone_below(folder: Path) -> Iterator[None]:
    """Hold a folder against runs that publish there from another store; leaves no file behind."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_report(results: Results, run: Publication, cached_tasks: int) -> dict[str, Any]:
    """The content of report.json."""
    quality, rendered = results.quality.values, results.rendered.values
    return plain(
        {
            "status": quality["status"],
            "checks": quality["checks"],
            "metrics": quality["metrics"],
            "reasons": quality["reasons"],
            "timing": {
                **rendered["timing"],
                "load_s": rendered["load_s"],
                "total_s": round(run.total_s, 3),
                "cached_tasks": cached_tasks,
            },
            "memory": {"peak_rss_mb": rendered["peak_rss_mb"], "peak_gpu_mb": rendered["peak_gpu_mb"]},
            "plan": results.plan,
            "inputs": _inputs(results, run),
            "parameters": run.parameters,
            "audio": {key: results.cleaned.values[key] for key in ("text", "verdict", "candidates")},
            "prompt": results.prompt.values,
            "video": quality["video"],
            "engine": {
                "device": rendered["device"],
                "dtype": rendered["dtype"],
                "kv_cache_dtype": kv_dtype_of(results.plan),
                "machine": rendered["machine"],
                "latents_sha256": rendered["latents_sha256"],
            },
            "version": __version__,
        }
    )


def make_manifest(results: Results, run: Publication) -> dict[str, Any]:
    """The content of manifest.json: everything that decides what the run makes, and the digests of what it made."""
    rendered = results.rendered
    outputs = {name: sha256(source) for name, source in _products(results).items()}
    return plain(
        {
            "latents_sha256": rendered.values["latents_sha256"],
            "latents_shape": rendered.values["latents_shape"],
            "inputs": _inputs(results, run),
            "parameters": {k: v for k, v in run.parameters.items() if k not in ("out", "resume", "force")},
            "seed": run.parameters["seed"],
            "model": {
                "name": run.parameters["model"],
                "sha256": run.model_digest,
                "files": files_of(run.model_dir),
            },
            "code": {"version": __version__, "commit": _commit(), "sha256": code_digest(*CODE)},
            "packages": package_versions(PACKAGES),
            "machine": rendered.values["machine"],
            "device": rendered.values["device"],
            "dtype": rendered.values["dtype"],
            "kv_cache_dtype": kv_dtype_of(results.plan),
            "outputs": outputs,
        }
    )


def holds(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether a folder holds exactly the run of this manifest, every file whole."""
    try:
        standing = json.loads((out / MANIFEST).read_text())
        standing["code"]["commit"] = manifest["code"]["commit"]  # a commit alone changes nothing that was made
        if standing != manifest or not all((out / name).is_file() for name in CHANGING):
            return False
        return all(sha256(out / name) == sha for name, sha in manifest["outputs"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _products(results: Results) -> dict[str, Path]:
    """Files of the output folder and where they come from."""
    products = {
        "video.mp4": results.rendered.path(VIDEO),
        "latents.bin": results.rendered.path(LATENTS),
        "portrait.png": results.portrait.path(PORTRAIT),
        "frames.parquet": results.quality.path(FRAMES_TABLE),
        "blocks.parquet": results.quality.path(BLOCKS_TABLE),
        "audio/cleaned.wav": results.cleaned.path(CLEANED),
        "audio/words.json": results.cleaned.path(WORDS),
        "audio/features.pt": results.features.path(FEATURES),
    }
    live = {name: results.rendered.path(name) for name in results.rendered.files if name.startswith(f"{LIVE}/")}
    return products | live


def _swap_in(out: Path, results: Results, report: dict[str, Any], manifest: dict[str, Any]) -> None:
    from liveavatar.report.page import write_report

    for leftover in out.parent.glob(f".{glob.escape(out.name)}.????????*"):  # of a run that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    building = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        for name, source in _products(results).items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, building / name)
        (building / REPORT).write_bytes(_json(report))
        (building / MANIFEST).write_bytes(_json(manifest))
        write_report(building, report, name=out.name)
        sync_tree(building)
        try:
            os.rename(building, out)  # onto nothing, or onto an empty folder, whose name stays taken meanwhile
        except OSError:
            if not out.exists():
                raise
            grave = building.with_name(building.name + ".old")
            os.rename(out, grave)
            os.rename(building, out)
            shutil.rmtree(grave, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _inputs(results: Results, run: Publication) -> dict[str, Any]:
    pose = run.pose_video
    told = {} if pose is None else {"pose_video": {"name": pose.name, "sha256": sha256(pose)}}
    return told | {
        "audio": {
            "name": run.audio_name or run.audio.name,
            "sha256": sha256(run.audio),
            "seconds": results.sound.values["seconds"],
        },
        "image": {"name": run.image.name, "sha256": sha256(run.image), **results.portrait.values},
        "model": {"name": run.parameters["model"], "sha256": run.model_digest},
    }


@cache
def _commit() -> str | None:
    """Commit of the repository the code runs from, None outside one."""
    command = ["git", "-C", str(config.REPO_ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _artifacts(out: Path, report: dict[str, Any]) -> None:
    """What the Prefect UI shows of a run."""
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:
        return
    key = "render"
    rows = [
        {"check": c["name"], "status": c["status"], "value": c["value"], "limit": c["limit"], "reason": c["reason"]}
        for c in report["checks"]
    ]
    create_table_artifact(table=rows, key=f"{key}-checks", description=f"verdict: {report['status']}")
    create_table_artifact(
        table=[
            {"measure": k, "value": v, "why not": report["reasons"].get(k, "")} for k, v in report["metrics"].items()
        ],
        key=f"{key}-metrics",
        description="measures of the film",
    )
    create_markdown_artifact(markdown=_summary(out, report), key=f"{key}-summary")
    create_link_artifact(link=(out / PAGE).resolve().as_uri(), link_text="report page", key=f"{key}-report")
    create_image_artifact(image_url=(out / "portrait.png").resolve().as_uri(), key=f"{key}-portrait")


def _summary(out: Path, report: dict[str, Any]) -> str:
    timing = report["timing"]
    failed = "\n".join(f"- {c['name']}: {c['reason']}" for c in report["checks"] if c["status"] != "passed")
    said = report["audio"]["text"] or "(not transcribed)"
    return (
        f"## {out.name}: {report['status']}\n\n{failed or 'All checks passed.'}\n\n"
        f"**Said:** {said}\n\n"
        f"**Speed:** {timing['fps']} frames/s, first frame after {timing['ttff_s']} s, "
        f"{timing['cached_tasks']} stages from the store, {timing['total_s']} s in all.\n\n"
        f"**Finished:** {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}\n"
    )

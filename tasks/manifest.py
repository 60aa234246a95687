"""Content of report.json and manifest.json, from the entries of a run's stages; writes nothing."""

import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from liveavatar import __version__, paths
from liveavatar.files import plain, read_json, sha256
from tasks.enhance import CLEANED, WORDS
from tasks.features import FEATURES
from tasks.ingest import CANVAS, PORTRAIT
from tasks.inputs import JobInputs
from tasks.plan import kv_dtype_of
from tasks.quality import BLOCKS_TABLE, FRAMES_TABLE
from tasks.render import LATENTS, LIVE, VIDEO
from tasks.run_folder import CHANGING, MANIFEST
from tasks.store.changes import changes_between, summary
from tasks.store.keys import code_parts, job_key, package_versions
from tasks.store.model import files_of
from tasks.store.store import Entry

CODE = ("liveavatar.report.page",)
PACKAGES = (
    *("torch", "numpy", "scipy", "safetensors", "av", "imageio-ffmpeg", "noisereduce", "openai-whisper", "prefect"),
    *("ray", "great-expectations", "pandas", "pyarrow", "pillow", "ai-edge-litert", "opencv-python-headless"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Entries of the stages before publishing."""

    sound: Entry
    portrait: Entry
    cleaned: Entry
    features: Entry
    prompt: Entry
    plan: Entry
    rendered: Entry
    quality: Entry
    pose: Entry | None = None

    def entries(self) -> dict[str, Entry]:
        """Map stages to entries, in the order of the stages; sound from a pipe has one for sound and cleaning."""
        entries = (
            *(self.sound, self.portrait, self.pose, self.cleaned, self.features),
            *(self.prompt, self.plan, self.rendered, self.quality),
        )
        return {entry.kind: entry for entry in entries if entry is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """A run and its place."""

    out: Path
    inputs: JobInputs  # the sound of a pipe as it was recorded
    model_dir: Path
    model_digest: str
    parameters: dict[str, Any]
    total_s: float
    cached_tasks: int
    audio_name: str | None = None  # of sound from a pipe


def make_report(
    results: Results, run: Publication, cached_tasks: int, before: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Build the content of report.json.

    Args:
        results, run: as for `make_manifest`.
        cached_tasks: stages that were taken from the store.
        before: parts of each stage's key in the run before, from `stages_of` or from the store.
    """
    quality, rendered = results.quality.values, results.rendered.values
    return plain(
        {
            "status": quality["status"],
            "headline": quality["headline"],
            "checks": quality["checks"],
            "metrics": quality["metrics"],
            "reasons": quality["reasons"],
            "worst_seconds": quality["worst_seconds"],
            "timing": {
                **rendered["timing"],
                "load_s": rendered["load_s"],
                "total_s": round(run.total_s, 3),
                "cached_tasks": cached_tasks,
            },
            "memory": {name: rendered[name] for name in ("peak_rss_mb", "peak_gpu_mb")} | rendered["memory"],
            "plan": results.plan.values,
            "inputs": _inputs(results, run),
            "parameters": run.parameters,
            "audio": {key: results.cleaned.values[key] for key in ("text", "verdict", "candidates")},
            "prompt": results.prompt.values,
            "video": quality["video"],
            "engine": {
                "device": rendered["device"],
                "dtype": rendered["dtype"],
                "kv_cache_dtype": kv_dtype_of(results.plan.values),
                "machine": rendered["machine"],
                "latents_sha256": rendered["latents_sha256"],
            },
            "stages": {
                name: stage_report(entry, before.get(name), forced=bool(run.parameters["force"]))
                for name, entry in results.entries().items()
            },
            "version": __version__,
        }
    )


def make_manifest(results: Results, run: Publication) -> dict[str, Any]:
    """Build the content of manifest.json: everything that decides what the run makes, and digests of what it made."""
    rendered = results.rendered
    outputs = {name: sha256(source) for name, source in products_of(results).items()}
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
            "code": {"version": __version__, "commit": _commit(), "sha256": job_key("code", files=_code(results))},
            "packages": package_versions(PACKAGES),
            "machine": rendered.values["machine"],
            "device": rendered.values["device"],
            "dtype": rendered.values["dtype"],
            "kv_cache_dtype": kv_dtype_of(results.plan.values),
            "stages": {name: {"key": e.key, **e.made_from} for name, e in results.entries().items()},
            "outputs": outputs,
        }
    )


def stage_report(entry: Entry, before: dict[str, Any] | None, forced: bool) -> dict[str, Any]:
    """Report why a stage ran, or that it did not.

    Args:
        entry: of the stage.
        before: parts of its key in the run before; None where there was none.
        forced: whether --force was given.

    Returns:
        `cached` (bool), `reason` (one line), `changes` (part, name, before, after of each difference).
    """
    if entry.hit:
        return {"cached": True, "reason": "nothing differs: taken from the store", "changes": []}
    if before is None:
        return {"cached": False, "reason": "ran for the first time", "changes": []}
    changes = changes_between(before, entry.made_from)
    if changes:
        reason = f"ran again: {summary(changes)}"
    elif forced:
        reason = "ran again: --force"
    else:
        reason = "ran again: nothing differs, but the store had lost its entry"
    return {"cached": False, "reason": reason, "changes": [asdict(change) for change in changes]}


def _code(results: Results) -> dict[str, str]:
    """Collect the digests of all source files that the run depends on."""
    files = code_parts(*CODE)
    for entry in results.entries().values():
        files |= entry.made_from["code"]
    return files


def holds(out: Path, manifest: dict[str, Any]) -> bool:
    """Tell if a folder holds exactly the run of this manifest, every file whole."""
    try:
        standing = read_json(out / MANIFEST)
        standing["code"]["commit"] = manifest["code"]["commit"]  # a commit alone changes nothing that was made
        if standing != manifest or not all((out / name).is_file() for name in CHANGING):
            return False
        return all(sha256(out / name) == sha for name, sha in manifest["outputs"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def products_of(results: Results) -> dict[str, Path]:
    """Map the files of the output folder, by name, to their source in the store."""
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
    if results.portrait.values.get("canvas"):
        products["canvas.png"] = results.portrait.path(CANVAS)
    live = {name: results.rendered.path(name) for name in results.rendered.files if name.startswith(f"{LIVE}/")}
    return products | live


def _inputs(results: Results, run: Publication) -> dict[str, Any]:
    files = run.inputs
    assert files.audio is not None
    pose = {} if files.pose is None else {"pose_video": {"name": files.pose.path.name, "sha256": files.pose.sha256}}
    return pose | {
        "audio": {
            "name": run.audio_name or files.audio.path.name,
            "sha256": files.audio.sha256,
            "seconds": results.sound.values["seconds"],
        },
        "image": {"name": files.image.path.name, "sha256": files.image.sha256, **results.portrait.values},
        "model": {"name": run.parameters["model"], "sha256": run.model_digest},
    }


@cache
def _commit() -> str | None:
    """Return the commit of the repository the code runs from, None outside one."""
    command = ["git", "-C", str(paths.REPO_ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

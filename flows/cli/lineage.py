"""`liveavatar lineage`: trace a video back to the inputs, options, model and code that made it."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.terminal import say
from liveavatar import paths
from liveavatar.errors import InputError
from liveavatar.files import read_json, sha256
from liveavatar.isolation.caller import isolated
from liveavatar.media.origin import read_origin
from tasks.catalogue import recorded_runs
from tasks.run_folder import MANIFEST, VIDEO, origin_of, outputs_of, stages_of
from tasks.store.store import Entry, Store

SHOWN_DIGEST = 12
SEARCHED = 1000  # renders of the store, the last used ones, that are read for a video whose run is not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Origin of a video."""

    video: str
    sha256: str
    origin: str  # digest of everything that the video depends on
    unchanged: bool  # the file is a published one, byte for byte
    manifests: list[str]  # of the runs that published it, the newest first
    manifest: dict[str, Any] | None  # content of the first
    made_from: dict[str, Any]  # parts of the render's key, from the manifest or the store


def lineage_command(options: dict[str, Any]) -> int:
    """Say where a video comes from."""
    origin = trace(Path(options["video"]))
    if options["json"]:
        told = {name: getattr(origin, name) for name in Lineage.__slots__}
        say(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    for line in lines(origin):
        say(line)
    return 0


def trace(video: Path) -> Lineage:
    """Find the run of a video: by the mark in its metadata, else by its bytes.

    Raises:
        InputError: it is no video, or not one of a run that is known here.
    """
    origin = isolated(read_origin, video)
    digest = sha256(video)
    known = [run for run in recorded_runs() if run.video_sha256 == digest or run.facts.get("origin") == (origin or "")]
    origin = origin or next((run.facts["origin"] for run in known if run.facts.get("origin")), None)
    if origin is None:
        raise InputError(
            f"{video}: it has no mark of a render in its metadata, and no run in the catalogue has these bytes"
        )
    folders = dict.fromkeys([video.resolve().parent, *(Path(run.out) for run in known)])
    holding = [folder for folder in folders if _origin(stages_of(folder).get("render")) == origin]
    stored = None if holding else _stored(origin)
    if not holding and stored is None:
        raise InputError(
            f"{video}: it comes from the render {origin}, which is not known in {paths.home()}; set LIVEAVATAR_HOME to "
            f"the home where it was made, or put the video beside its {MANIFEST}"
        )
    published = {outputs_of(folder).get(VIDEO) for folder in holding} | {stored.files.get(VIDEO) if stored else None}
    return Lineage(
        video=str(video),
        sha256=digest,
        origin=origin,
        unchanged=digest in published,
        manifests=[str(folder / MANIFEST) for folder in holding],
        manifest=read_json(holding[0] / MANIFEST) if holding else None,
        made_from=stored.made_from if stored else stages_of(holding[0])["render"],
    )


def _stored(origin: str) -> Entry | None:
    """Find the render of a video among the last used ones of the store."""
    renders = Store().recent("render", other_than="", most=SEARCHED)
    return next((entry for entry in renders if _origin(entry.made_from) == origin), None)


def _origin(render: dict[str, Any] | None) -> str | None:
    try:
        return None if render is None else origin_of(render)
    except (KeyError, TypeError, AttributeError):
        return None


def lines(origin: Lineage) -> list[str]:
    """Describe the origin of a video for people."""
    told = [f"{origin.video}: render {origin.origin}"]
    if origin.unchanged:
        told.append("  file      as it was published, byte for byte")
    else:
        told.append("  file      changed since it was published (cut, or encoded anew); its mark was kept")
    manifest = origin.manifest
    if manifest is None:
        told.append("  manifest  not here; the store still has the render, `--json` lists what it was made from")
        return told
    for name, describe in _FACTS.items():
        try:
            told += describe(manifest)
        except (KeyError, TypeError, AttributeError):  # of another version, or edited
            told.append(f"  {name:<9} not told by this manifest")
    told.append(f"  manifest  {origin.manifests[0]} (sha256 {sha256(Path(origin.manifests[0]))})")
    told += [f"  also      {path}" for path in origin.manifests[1:]]
    return [*told, f"  again     liveavatar render --from {shlex.quote(str(origin.manifests[0]))}"]


def _inputs(manifest: dict[str, Any]) -> list[str]:
    files = manifest["inputs"].items()
    return [f"  {name:<9} {file['name']} (sha256 {file['sha256'][:SHOWN_DIGEST]})" for name, file in files]


def _options(manifest: dict[str, Any]) -> list[str]:
    options = {k: v for k, v in manifest["parameters"].items() if k not in _SAID and v not in (None, False)}
    listed = ", ".join(f"{name} {value}" for name, value in options.items())
    return [f"  prompt    {manifest['parameters']['prompt']}", f"  options   {listed}"]


def _code(manifest: dict[str, Any]) -> list[str]:
    code = manifest["code"]
    return [f"  code      version {code['version']}, commit {code['commit'] or 'unknown'}"]


def _machine(manifest: dict[str, Any]) -> list[str]:
    return [f"  machine   {manifest['machine']}, {manifest['device']}, {manifest['dtype']}"]


def _stages(manifest: dict[str, Any]) -> list[str]:
    return [f"  {name:<9} {stage['key'][:SHOWN_DIGEST]}" for name, stage in manifest["stages"].items()]


_FACTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "inputs": _inputs,
    "options": _options,
    "code": _code,
    "machine": _machine,
    "stages": _stages,
}
_SAID = ("audio", "image", "pose_video", "model", "prompt")

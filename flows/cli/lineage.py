"""`liveavatar lineage`: trace a video back to the inputs, options, model and code that made it."""

import json
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
from tasks.run_folder import MANIFEST, VIDEO, outputs_of, stages_of
from tasks.store.store import Store

SHOWN_DIGEST = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Origin of a video."""

    video: str
    sha256: str
    render_key: str
    unchanged: bool  # the file is a published one, byte for byte
    manifests: list[str]  # of the runs that published it, the newest first
    manifest: dict[str, Any] | None  # content of the first
    made_from: dict[str, Any] | None  # parts of the render's key, from the manifest or the store


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
    key = isolated(read_origin, video)
    digest = sha256(video)
    runs = [run for run in recorded_runs() if key == run.stages.get("render", "") or run.video_sha256 == digest]
    key = key or next((run.stages["render"] for run in runs if "render" in run.stages), None)
    if key is None:
        raise InputError(
            f"{video}: it has no mark of a render in its metadata, and no run in the catalogue has these bytes"
        )
    folders = [video.resolve().parent, *(Path(run.out) for run in runs)]
    holding = [folder for folder in dict.fromkeys(folders) if stages_of(folder).get("render", {}).get("key") == key]
    stored = Store().peek("render", key)
    if not holding and stored is None:
        raise InputError(
            f"{video}: it comes from the render {key}, which is not known in {paths.home()}; set LIVEAVATAR_HOME to "
            f"the home where it was made, or put the video beside its {MANIFEST}"
        )
    manifest = read_json(holding[0] / MANIFEST) if holding else None
    return Lineage(
        video=str(video),
        sha256=digest,
        render_key=key,
        unchanged=digest in {outputs_of(folder).get(VIDEO) for folder in holding}
        or (stored is not None and stored.files.get(VIDEO) == digest),
        manifests=[str(folder / MANIFEST) for folder in holding],
        manifest=manifest,
        made_from=stages_of(holding[0])["render"] if holding else stored.made_from if stored is not None else None,
    )


def lines(origin: Lineage) -> list[str]:
    """Describe the origin of a video for people."""
    told = [f"{origin.video}: render {origin.render_key}"]
    if origin.unchanged:
        told.append("  file      as it was published, byte for byte")
    else:
        told.append("  file      changed since it was published (cut, or encoded anew); its mark was kept")
    manifest = origin.manifest
    if manifest is None:
        told.append("  manifest  not here; the store still has the render, `--json` lists what it was made from")
        return told
    for name, file in manifest["inputs"].items():
        told.append(f"  {name:<9} {file['name']} (sha256 {file['sha256'][:SHOWN_DIGEST]})")
    options = {k: v for k, v in manifest["parameters"].items() if k not in _SAID and v not in (None, False)}
    told.append(f"  prompt    {manifest['parameters']['prompt']}")
    told.append(f"  options   {', '.join(f'{name} {value}' for name, value in options.items())}")
    code = manifest["code"]
    told.append(f"  code      version {code['version']}, commit {code['commit'] or 'unknown'}")
    told.append(f"  machine   {manifest['machine']}, {manifest['device']}, {manifest['dtype']}")
    told += [f"  {name:<9} {stage['key'][:SHOWN_DIGEST]}" for name, stage in manifest["stages"].items()]
    told.append(f"  manifest  {origin.manifests[0]} (sha256 {sha256(Path(origin.manifests[0]))})")
    told += [f"  also      {path}" for path in origin.manifests[1:]]
    return [*told, f"  again     liveavatar render --from {origin.manifests[0]}"]


_SAID = ("audio", "image", "pose_video", "model", "prompt")

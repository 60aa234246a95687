"""`render --from manifest.json`: the options of a run from its manifest, and the comparison with what it made."""

from pathlib import Path
from typing import Any

from flows.parameters import RenderParameters
from flows.stored_inputs import find_input
from liveavatar.errors import InputError
from liveavatar.files import read_json, sha256
from tasks.run_folder import MANIFEST, VIDEO
from tasks.store.changes import changes_between, summary

FILES = ("audio", "image", "pose_video")  # may be named anew, with the same content
FREE = (*FILES, "model", "out", "resume", "force")  # options beside --from


def read_again(path: Path, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the options of a run from its manifest.

    Args:
        path: the manifest, or its folder.
        given: options on the command line.

    Returns:
        options of a render, and the manifest.

    Raises:
        InputError: it is no manifest, an input is gone or differs, or another option is given.
    """
    fixed = next((name for name in given if name not in FREE), None)
    if fixed is not None:
        raise InputError(f"--from fixes every option of the run; drop --{fixed} (allowed: {_listed(FREE)})")
    path = path / MANIFEST if path.is_dir() else path
    no_manifest = f"--from {path}: it is no manifest of a run; give the {MANIFEST} of its folder"
    try:
        manifest = read_json(path)
        options = {name: value for name, value in manifest["parameters"].items() if value is not None}
        needed = {name: dict(manifest["inputs"][name]) for name in FILES if name in manifest["inputs"]}
        complete = all((manifest["latents_sha256"], manifest["outputs"][VIDEO], manifest["stages"].items()))
    except OSError as e:
        raise InputError(f"--from {path}: it cannot be read ({e.strerror}); give the {MANIFEST} of a run") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(no_manifest) from e
    if not complete:
        raise InputError(no_manifest)
    unknown = next((name for name in options if name not in RenderParameters.model_fields), None)
    if unknown is not None:
        raise InputError(
            f"--from {path}: its option {unknown} is of another version of the product; make it again there, or from a "
            "copy of the manifest without it"
        )
    if options.get("audio") == "-":
        raise InputError(f"--from {path}: its sound came through a pipe, and cannot be rendered from a file as it was")
    for name, file in needed.items():
        options[name] = str(_found(name, file, given.get(name), [Path(options[name]), path.parent / file["name"]]))
    return options | {name: value for name, value in given.items() if name not in FILES}, manifest


def _found(name: str, file: dict[str, Any], given: str | None, places: list[Path]) -> Path:
    """Find an input by its digest: the file that is given, else where it was, beside the manifest, or among uploads."""
    stored = find_input(str(file["sha256"])[:32])
    candidates = [Path(given)] if given is not None else [*places, *([] if stored is None else [stored.path])]
    for path in candidates:
        if path.is_file() and sha256(path) == file["sha256"]:
            return path
    if given is not None:
        raise InputError(f"--{name} {given}: it is not there, or not the file of the run (sha256 {file['sha256']})")
    raise InputError(
        f"--from: {file['name']} is no longer at {places[0]}, or was changed; give it with --{name} "
        f"(sha256 {file['sha256']})"
    )


def compare(before: dict[str, Any], after: dict[str, Any], *, cached: bool) -> tuple[bool, str]:
    """Compare what two runs made.

    Args:
        before, after: their manifests.
        cached: the second took its video from the store.

    Returns:
        whether latents and video are the same bytes, and a line that says so, or why not.
    """
    differ = [
        name
        for name, same in (
            ("latents", before["latents_sha256"] == after["latents_sha256"]),
            ("video", before["outputs"][VIDEO] == after["outputs"][VIDEO]),
        )
        if not same
    ]
    if not differ:
        how = "; taken from the store, --force renders it anew" if cached else ""
        return True, f"same bits as the manifest: latents and video{how}"
    for stage, parts in after["stages"].items():
        changes = changes_between(before["stages"].get(stage, {}), parts)
        if changes:
            return False, f"other bits than the manifest: {_listed(differ)} differ; {stage}: {summary(changes)}"
    return False, f"other bits than the manifest: {_listed(differ)} differ, although nothing that is recorded does"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names)

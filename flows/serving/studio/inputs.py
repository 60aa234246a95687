"""Sounds and pictures that the studio page is given: kept below the home, each once, by its digest.

A file gets its place only after the disposable reader (`liveavatar.isolation`) could decode it. Beside it lie its facts
and, of a picture, a small JPEG that every browser can show.
"""

import hashlib
import os
import re
import shutil
import threading
import time
import unicodedata
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flows.stored_inputs import AUDIO, IMAGE, StoredInput, facts_path, find_input, touch
from liveavatar import config, paths
from liveavatar.audio.ingest import sound_seconds
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.headers import readable_model_dir
from liveavatar.errors import InputError
from liveavatar.files import disk_errors, newest_first, replacing, require_disk, write_json
from liveavatar.isolation.caller import isolated
from liveavatar.media.framing import Framing
from liveavatar.media.portrait_check import judge_portrait
from tasks.inputs import check_sound, decode_portrait

MOST_BYTES = {AUDIO: 500_000_000, IMAGE: 60_000_000}  # of one file
STORED_BYTES = 10_000_000_000  # of all files together; those unused for longest go
SPARE_BYTES = 1_000_000_000  # that an upload leaves free on the disk
SPARED_SECONDS = 2 * 86400.0  # a file used since then stays: its job may still wait
ABANDONED_SECONDS = 86400.0  # after which an upload that never ended goes
NAME_CHARACTERS = 60
PREVIEW_SIDE = 640  # pixels
UNSAFE = re.compile(r"[^\w.-]+")

_placing = threading.Lock()  # the same file may come twice at once
_judging = threading.Lock()  # the detectors hold buffers of their own


class UploadTooLarge(InputError):
    """A file has more bytes than its kind may have."""


def safe_name(name: str) -> str:
    """Turn the name of a file of the user's into one that is safe on any disk and in any address."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    stem, dot, ending = plain.rpartition(".")
    stem, ending = (stem, UNSAFE.sub("", ending)[:8]) if dot and stem else (ending, "")
    stem = UNSAFE.sub("-", stem).strip("-.")[:NAME_CHARACTERS].strip("-.") or "input"
    return f"{stem}.{ending.lower()}" if ending else stem


async def receive(chunks: AsyncIterator[bytes], kind: str, declared: int) -> tuple[Path, str]:
    """Write an upload to a file of no name yet; return its path and sha256.

    Args:
        chunks: its bytes.
        kind: AUDIO or IMAGE.
        declared: its length as the request says.

    Raises:
        UploadTooLarge: it is longer than its kind may be.
        CapacityError: the disk is full.
    """
    folder = paths.inputs()
    _refuse_long(kind, declared)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    require_disk(folder, declared + SPARE_BYTES, "this upload")
    temporary, digest, size = folder / f".{uuid.uuid4().hex}.tmp", hashlib.sha256(), 0
    try:
        with disk_errors(folder), temporary.open("xb") as file:
            async for chunk in chunks:
                size += len(chunk)
                _refuse_long(kind, size)
                digest.update(chunk)
                file.write(chunk)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, digest.hexdigest()


def _refuse_long(kind: str, size: int) -> None:
    if size > MOST_BYTES[kind]:
        raise UploadTooLarge(f"the file has more than {MOST_BYTES[kind] // 1_000_000} MB; give a smaller one")


def keep(temporary: Path, digest: str, kind: str, name: str) -> StoredInput:
    """Check an upload with the disposable reader, and give it its place.

    Raises:
        InputError: it is no sound or picture that a render can use; it is deleted.
        CapacityError: the disk is full.
    """
    known = find_input(digest[:32])
    if known is not None and known.kind == kind:
        temporary.unlink()
        return _renamed(known, safe_name(name))
    named = StoredInput(id=digest[:32], kind=kind, name=safe_name(name))
    checked = temporary.with_name(f".{digest[:32]}.{uuid.uuid4().hex[:8]}") / named.name  # refusals name the file
    try:
        with disk_errors(paths.inputs()):
            checked.parent.mkdir()
            os.replace(temporary, checked)
            stored = _check_sound(checked, named) if kind == AUDIO else _check_picture(checked, named)
            with _placing:
                shutil.rmtree(stored.path.parent, ignore_errors=True)
                os.replace(checked.parent, stored.path.parent)
                write_json(facts_path(stored.id), asdict(stored))
    except InputError as e:
        raise InputError(str(e).replace(f"{checked.parent}{os.sep}", "")) from e
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(checked.parent, ignore_errors=True)
    collect()
    return stored


def _renamed(known: StoredInput, name: str) -> StoredInput:
    """Give a stored file another name; those that it had stay, for jobs and tables have them."""
    stored = replace(known, name=name)
    with _placing, disk_errors(paths.inputs()):
        if not stored.path.exists():
            try:
                os.link(known.path, stored.path)
            except OSError:  # this file system has no hard links
                shutil.copyfile(known.path, stored.path)
        write_json(facts_path(stored.id), asdict(stored))
    return stored


def _check_sound(path: Path, named: StoredInput) -> StoredInput:
    isolated(check_sound, path, beats=True)
    seconds = isolated(sound_seconds, path)
    return StoredInput(id=named.id, kind=AUDIO, name=named.name, seconds=round(float(seconds), 2))


def _check_picture(path: Path, named: StoredInput) -> StoredInput:
    pixels = decode_portrait(path)
    height, width = pixels.shape[:2]
    _write_preview(pixels, named.preview)
    return StoredInput(id=named.id, kind=IMAGE, name=named.name, width=width, height=height)


def _write_preview(rgb: np.ndarray, target: Path) -> None:
    picture = Image.fromarray(rgb)
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    with replacing(target) as temporary:
        picture.save(temporary, "JPEG", quality=88)


def require_input(input_id: str, kind: str) -> StoredInput:
    """Find a stored file of a kind, and note that it is used.

    Raises:
        InputError: it is not here.
    """
    stored = find_input(input_id)
    if stored is None or stored.kind != kind:
        what = "sound" if kind == AUDIO else "picture"
        raise InputError(f"the {what} is no longer here; drop it again")
    touch(stored)
    return stored


def collect(most_bytes: int = STORED_BYTES) -> None:
    """Delete files that were unused for longest while all together are too many, and uploads that never ended."""
    total, now = 0, time.time()
    for facts in newest_first(paths.inputs().glob("*.json")):
        folder = facts.with_suffix("")
        sizes = {
            facts.st_ino: facts.st_size for facts in map(Path.stat, folder.glob("*"))
        }  # one may have several names
        total += sum(sizes.values())
        if total > most_bytes and now - facts.stat().st_mtime > SPARED_SECONDS:
            for path in (facts, facts.with_suffix(".jpg")):
                path.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in paths.inputs().glob(".*"):
        if now - leftover.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def judge_stored(stored: StoredInput, model: str, face: int) -> dict[str, Any]:
    """Say how a picture will be framed and whether its face will speak.

    Returns:
        `video` ([width, height] of the video), `frame` (left, top, right, bottom of what the model sees, in shares of
        the picture; None where the video is cut to it), `verdict`, `reasons`, `remarks` and `faces` (None for a model
        that renders any picture).

    Raises:
        InputError: there is no such face.
    """
    cfg = config.PRESETS.get(model) or read_config(readable_model_dir(model))
    pixels = decode_portrait(stored.path)
    with _judging:
        judged = judge_portrait(pixels, Framing(face=face), cfg)
    shown = judged.picture if judged.framed is None else judged.framed.canvas
    height, width = shown.shape[:2]
    check = judged.check
    return {
        "video": [width, height],
        "frame": None if judged.framed is None else _shares(judged.framed.box, width, height),
        "verdict": None if check is None else check.verdict,
        "reasons": [] if check is None else list(check.reasons),
        "remarks": [] if check is None else list(check.remarks),
        "faces": None if check is None else check.faces,
    }


def _shares(box: tuple[float, float, float, float], width: int, height: int) -> list[float]:
    return [round(edge / side, 4) for edge, side in zip(box, (width, height, width, height), strict=True)]

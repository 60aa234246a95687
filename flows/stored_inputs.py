"""Files that the studio page was given, as other parts find them: by id, by path, and by name in a job's options.

Light to import: the options of every command read it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from liveavatar import paths
from liveavatar.files import newest_first, read_json

AUDIO, IMAGE = "audio", "image"
INPUT_ID = re.compile(r"[0-9a-f]{32}")
PREFIX = "studio:"  # before the name of a stored file, where an option takes a path
MOST_NAMES = 20  # that a form or a refusal lists


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInput:
    """A file that was received and could be read."""

    id: str  # first half of its sha256
    kind: str  # AUDIO or IMAGE
    name: str  # that it was given last
    seconds: float | None = None  # of a sound
    width: int | None = None  # of a picture, pixels
    height: int | None = None

    @property
    def path(self) -> Path:
        """Place of the file."""
        return paths.inputs() / self.id / self.name

    @property
    def names(self) -> list[str]:
        """Names that it was given, the last one first."""
        return sorted((path.name for path in self.path.parent.glob("*")), key=lambda name: name != self.name)

    @property
    def preview(self) -> Path:
        """JPEG of a picture."""
        return paths.inputs() / f"{self.id}.jpg"


def find_input(input_id: str) -> StoredInput | None:
    """Read the facts of a stored file; None where there is none, or the file is gone."""
    if not INPUT_ID.fullmatch(input_id):
        return None
    try:
        stored = StoredInput(**read_json(facts_path(input_id)))
    except (OSError, ValueError, TypeError):
        return None
    return stored if stored.path.is_file() else None


def input_of_path(path: str) -> StoredInput | None:
    """Find the stored file of a path in a job's parameters; None for a file that lies elsewhere."""
    place = Path(path)
    stored = find_input(place.parent.name)
    return stored if stored is not None and stored.path.parent == place.parent and place.name in stored.names else None


def facts_path(input_id: str) -> Path:
    """Return the path of the facts of a stored file."""
    return paths.inputs() / f"{input_id}.json"


def touch(stored: StoredInput) -> None:
    """Note that a file is used."""
    os.utime(facts_path(stored.id))


def newest(kind: str) -> Iterator[StoredInput]:
    """Iterate over the stored files of a kind, those used last first."""
    found = (find_input(facts.stem) for facts in newest_first(paths.inputs().glob("*.json")))
    return (stored for stored in found if stored is not None and stored.kind == kind)


def newest_names(kind: str) -> list[str]:
    """List names of stored files of a kind, each once, those used last first; no more files are read than that needs.

    Every command that imports the flow of a render makes its form.
    """
    names: dict[str, None] = {}
    for stored in newest(kind):
        names[stored.name] = None
        if len(names) == MOST_NAMES:
            break
    return list(names)


def path_of(option: str, kind: str) -> str:
    """Turn `studio:NAME` into the path of the stored file of that name that was used last; other values stay.

    Raises:
        ValueError: the studio has no such file.
    """
    name = option.removeprefix(PREFIX).strip()
    if not option.startswith(PREFIX) or Path(option).exists():
        return option
    stored = next((stored for stored in newest(kind) if name in (stored.id, *stored.names)), None)
    if stored is not None:
        touch(stored)
        return str(stored.path if name == stored.id else stored.path.with_name(name))
    names = newest_names(kind)
    near = get_close_matches(name, names, 1)
    if near:
        raise ValueError(f"the studio page has no file '{name}'; did you mean {PREFIX}{near[0]}?")
    what = "sound" if kind == AUDIO else "picture"
    has = f"it has {', '.join(names)}" if names else f"drop a {what} on the studio page first"
    raise ValueError(f"the studio page has no {what} '{name}'; {has}")

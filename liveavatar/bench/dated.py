"""Dated reports of benches: a page of Markdown and the figures behind it."""

from datetime import date
from pathlib import Path
from typing import Any

from liveavatar.files import write_atomically, write_json


def today() -> str:
    """Return the date that names a report."""
    return date.today().isoformat()


def write_dated(folder: Path, name: str, page: str, content: dict[str, Any]) -> Path:
    """Write a page (.md) and its content (.json) into a folder, which is made; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    write_atomically(path, page)
    write_json(path.with_suffix(".json"), content, indent=1)
    return path

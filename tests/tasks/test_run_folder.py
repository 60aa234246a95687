"""A run's output folder: what its manifest says of stages and files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.run_folder import origin_of, outputs_of, stages_of

STAGES = {"render": {"key": "k", "inputs": {"options": {"seed": 421}}, "code": {}, "packages": {}}}


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_folder_without_a_manifest_or_with_an_older_one_tells_nothing(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    assert (stages_of(tmp_path), outputs_of(tmp_path)) == ({}, {})


def test_stages_and_outputs_are_read_from_the_manifest(tmp_path: Path) -> None:
    content: dict[str, Any] = {"stages": STAGES, "outputs": {"video.mp4": "1" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert (stages_of(tmp_path), outputs_of(tmp_path)) == (STAGES, {"video.mp4": "1" * 64})


def test_a_video_depends_on_everything_but_whether_it_was_live() -> None:
    parts: dict[str, Any] = {"inputs": {"online": True, "model": "1"}, "code": {"a.py": "2"}, "packages": {"av": "18"}}
    assert origin_of(parts) == origin_of(parts | {"inputs": {"online": False, "model": "1"}})
    others = ({"inputs": {"online": True, "model": "3"}}, {"code": {}}, {"packages": {"av": "19"}})
    assert len({origin_of(parts), *(origin_of(parts | other) for other in others)}) == 4

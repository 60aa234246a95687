"""report.json and manifest.json: what a stage was made from, and what made it run again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.manifest import holds, stage_report
from tasks.store.store import Entry

MADE_FROM = {"inputs": {"options": {"seed": 421}}, "code": {}, "packages": {}}
MADE = Entry(kind="render", key="k", folder=Path(), files={}, made_from=MADE_FROM)


@pytest.mark.parametrize(
    ("entry", "before", "forced", "reason"),
    [
        pytest.param(replace(MADE, hit=True), None, True, "nothing differs: taken from the store", id="from the store"),
        pytest.param(MADE, None, False, "ran for the first time", id="first run"),
        pytest.param(
            MADE, {"inputs": {"options": {"seed": 420}}}, True, "ran again: option seed 420 -> 421", id="seed"
        ),
        pytest.param(MADE, MADE_FROM, True, "ran again: --force", id="by force"),
        pytest.param(
            MADE, MADE_FROM, False, "ran again: nothing differs, but the store had lost its entry", id="entry gone"
        ),
    ],
)
def test_a_stage_says_why_it_ran(entry: Entry, before: dict[str, Any] | None, forced: bool, reason: str) -> None:
    report = stage_report(entry, before, forced)
    assert (report["reason"], report["cached"]) == (reason, entry.hit)
    assert json.loads(json.dumps(report)) == report


def test_a_folder_holds_a_run_only_when_every_file_is_whole(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"video")
    digest = "a9cba2a2a8f2bb4ad4c5f6f5c2a4fd2b"
    manifest: dict[str, Any] = {"code": {"commit": "a"}, "outputs": {"video.mp4": digest}}
    assert not holds(tmp_path, manifest)
    for name in ("report.json", "report.html", "sheet.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert not holds(tmp_path, manifest), "the video has another digest"
    from liveavatar.files import sha256

    manifest["outputs"]["video.mp4"] = sha256(tmp_path / "video.mp4")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert holds(tmp_path, manifest)
    assert holds(tmp_path, {**manifest, "code": {"commit": "b"}}), "a commit alone changes nothing that was made"
    assert not holds(tmp_path, {**manifest, "seed": 1})

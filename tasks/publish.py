"""Prefect shell of the last stage: report, manifest, the output folder in one step, artifacts for the Prefect UI.

The folder is built beside its place and swapped in, so that the place always holds a whole run: the old one or the
new one.
"""

import datetime
import fcntl
import filecmp
import glob
import html
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from liveavatar.errors import one_line
from liveavatar.files import disk_errors, sha256, sync_tree, write_atomically
from tasks.assets import assets_of, emit_assets
from tasks.bookkeeping import RETURN_SECONDS, answers, recorded
from tasks.catalogue import CatalogueRecord, page_url, record_run
from tasks.ingest import CANVAS
from tasks.manifest import (
    Publication,
    Results,
    holds,
    make_manifest,
    make_report,
    products_of,
)
from tasks.render import LIVE
from tasks.run_folder import CHANGING, MANIFEST, REPORT, SHEET, VIDEO, outputs_of, stages_of
from tasks.stage import stage
from tasks.store.changes import closest
from tasks.store.keys import job_key
from tasks.store.store import Store

log = logging.getLogger(__name__)

MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~:@])")  # characters that mean something to markdown, links included

COMPARED_ENTRIES = 200  # last used ones of a stage, in search of the run before


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
    with disk_errors(run.out), Store().lock("publish", place), publishing_lock(run.out.parent):
        standing = holds(run.out, manifest)  # perhaps since a moment ago, by another run of the same job
        report = make_report(results, run, run.cached_tasks + standing, stages_before(results, run.out))
        if standing:
            write_atomically(run.out / REPORT, _json(report))
        else:
            replace_folder(run.out, results, report, manifest)
    _artifacts(run.out, report, manifest, record_run(run.out, manifest, report))
    return PublishedRun(out=run.out, report=report, hit=standing)


def stages_before(results: Results, out: Path) -> dict[str, dict[str, Any]]:
    """Read the key parts of each stage in the run that stands in the folder, else in the closest entry of the store."""
    before = stages_of(out)
    for name, entry in results.entries().items():
        if name not in before and not entry.hit:
            others = Store().recent(name, other_than=entry.key, most=COMPARED_ENTRIES)
            nearest = closest(entry.made_from, (other.made_from for other in others))
            if nearest is not None:
                before[name] = nearest
    return before


@contextmanager
def publishing_lock(folder: Path) -> Iterator[None]:
    """Hold a folder against runs that publish there from another store; leaves no file behind."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_folder(out: Path, results: Results, report: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Build the output folder beside its place, then swap it in by renaming; an older run goes.

    Raises:
        OSError: it cannot be written; the older run stays.
    """
    from liveavatar.report.page import write_report

    leftovers = [  # of a run that was killed here
        path
        for path in out.parent.glob(f".{glob.escape(out.name)}.????????*")
        if re.fullmatch(r"[0-9a-f]{8}(\.old)?", path.name.removeprefix(f".{out.name}."))
    ]
    building = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        for name, source in products_of(results).items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, building / name)
        (building / REPORT).write_bytes(_json(report))
        (building / MANIFEST).write_bytes(_json(manifest))
        write_report(building, report, name=out.name)
        for folder in (*(path for path in leftovers if path.suffix == ".old"), out):
            keep_foreign_files(folder, building)
        sync_tree(building)
        try:
            os.rename(building, out)  # onto nothing, or onto an empty folder, whose name stays taken meanwhile
        except OSError:
            if not out.exists():
                raise
            grave = building.with_name(building.name + ".old")
            os.rename(out, grave)
            os.rename(building, out)
            keep_foreign_files(grave, out)  # files that came a moment ago
            shutil.rmtree(grave, ignore_errors=True)
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def keep_foreign_files(old: Path, new: Path) -> None:
    """Link the files of a run's folder that no run published into the folder that replaces it.

    A file whose name the new run has taken gets the ending `.kept`.
    """
    ours = {MANIFEST, *CHANGING, *(outputs_of(old) or outputs_by_digest(old, new))}
    for folder, names, files in os.walk(old):
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            source = Path(folder, name)
            relative = source.relative_to(old)
            if relative.as_posix() not in ours:
                _link(source, new / relative)


def outputs_by_digest(old: Path, new: Path) -> set[str]:
    """Find the files of a run in a folder whose manifest is damaged: they bear the name of one and are in the store."""
    names = {path.relative_to(old).as_posix() for path in old.rglob("*") if path.is_file() and not path.is_symlink()}
    named = {name for name in names if (new / name).exists() or name == CANVAS or name.startswith(f"{LIVE}/")}
    known = Store().digests() if named else set()
    return {name for name in named if sha256(old / name) in known}


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links; a taken name gets the ending `.kept`."""
    while os.path.lexists(target):
        if _same(source, target):
            return
        target = target.with_name(target.name + ".kept")
        log.warning("a file of yours is kept as %s, since the run needs its name", target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _artifacts(out: Path, report: dict[str, Any], manifest: dict[str, Any], run: CatalogueRecord) -> None:
    """Publish the artifacts and assets of a run in the Prefect UI."""
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:
        return
    key = "render"
    rows = [
        {"check": c["name"], "status": c["status"], "value": c["value"], "limit": c["limit"], "reason": c["reason"]}
        for c in report["checks"]
    ]
    reasons = report["reasons"]
    measures = [{"measure": k, "value": v, "why not": reasons.get(k, "")} for k, v in report["metrics"].items()]
    verdict = f"verdict: {report['status']}"
    records: list[Callable[[], object]] = [
        lambda: create_table_artifact(table=rows, key=f"{key}-checks", description=verdict),
        lambda: create_table_artifact(table=measures, key=f"{key}-metrics", description="measures of the video"),
        lambda: create_markdown_artifact(markdown=_summary(out, report, run), key=f"{key}-summary"),
        lambda: create_link_artifact(link=page_url(run.id), link_text="report page", key=f"{key}-report"),
        lambda: create_link_artifact(link=page_url(run.id, VIDEO), link_text="video", key=f"{key}-video"),
        lambda: create_image_artifact(image_url=page_url(run.id, "portrait.png"), key=f"{key}-portrait"),
        lambda: create_image_artifact(image_url=page_url(run.id, SHEET), key=f"{key}-sheet", description=verdict),
        lambda: emit_assets(assets_of(manifest, run, out.name), {"verdict": report["status"], "out": str(out)}),
    ]
    if not answers():
        log.warning("waits for the Prefect server, which does not answer (at most %.0f s)", RETURN_SECONDS)
    if not answers(RETURN_SECONDS):
        log.warning("the Prefect server is gone; its record of this run stays incomplete")
        return
    for record in records:
        recorded(record)


def escaped(text: str) -> str:
    """Write text from a file so that markdown shows it as it is, on one line."""
    return MARKUP.sub(r"\\\1", html.escape(one_line(text), quote=False))


def _summary(out: Path, report: dict[str, Any], run: CatalogueRecord) -> str:
    timing = report["timing"]
    failed = "\n".join(f"- {c['name']}: {escaped(c['reason'])}" for c in report["checks"] if c["status"] != "passed")
    spoken = escaped(report["audio"]["text"] or "(not transcribed)")
    check = report["inputs"]["image"].get("check")
    portrait = "" if check is None else f"**Before rendering:** {escaped(check['line'])}\n\n"
    return (
        f"## {escaped(out.name)}: {report['status']}\n\n{failed or 'All checks passed.'}\n\n"
        f"[Video]({page_url(run.id, VIDEO)}) and [report]({page_url(run.id)}) open while `liveavatar serve` runs.\n\n"
        f"{portrait}**Said:** {spoken}\n\n"
        f"**Speed:** {timing['fps']} frames/s, first frame after {timing['ttff_s']} s, "
        f"{timing['cached_tasks']} stages from the store, {timing['total_s']} s in all.\n\n"
        f"**Finished:** {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}\n"
    )

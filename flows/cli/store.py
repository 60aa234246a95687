"""`liveavatar store`: list, tidy, verify and remove entries of the artefact store and runs of the catalogue."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from flows.serving import environment
from flows.terminal import say
from liveavatar import paths
from liveavatar.errors import CapacityError, InputError
from liveavatar.files import has_digest
from tasks.catalogue import CatalogueRecord, damaged_records, forget_run, recorded_runs, runs_by_entry
from tasks.run_folder import outputs_of
from tasks.store.remote import second_tier
from tasks.store.store import Store, StoredEntry

SHOWN_KEY = 12  # digits of a key in lines
LEAST_KEY = 6  # digits that name an entry
KEY = re.compile(rf"[0-9a-f]{{{LEAST_KEY},64}}")
DAYS, HOURS, MINUTES = 86400, 3600, 60  # s


ACTIONS = {"ls": ("stage",), "gc": ("days", "gb", "yes"), "verify": (), "rm": ("name",)}  # and their options


def store_command(options: dict[str, Any]) -> int:
    """Run an action of `liveavatar store`; 1 when `verify` finds damage."""
    action, as_json = options["action"], options["json"]
    for name in ("name", "stage", "days", "gb", "yes"):
        if options[name] not in (None, False) and name not in ACTIONS[action]:
            given = options[name] if name == "name" else f"--{name}"
            raise InputError(f"store {action} takes no {given}; drop it (see `liveavatar store --help`)")
    if action == "ls":
        return _show(*ls(options["stage"]), as_json)
    if action == "gc":
        return _show(*gc(options["days"], options["gb"], delete=options["yes"]), as_json)
    if action == "rm":
        if not options["name"]:
            raise InputError("store rm: name an entry by its key, or a run by its folder or id")
        lines = rm(options["name"])
        return _show({"deleted": lines}, lines, as_json)
    faults, lines = verify()
    _show({"damaged": faults}, lines, as_json)
    return int(bool(faults))


def _show(result: dict[str, Any], lines: list[str], as_json: bool) -> int:
    say(json.dumps(result, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))
    return 0


def ls(stage: str | None) -> tuple[dict[str, Any], list[str]]:
    """List entries, the last used first, with the runs that were made of them, and totals of each stage."""
    stored = Store().entries()
    stages = sorted({entry.kind for entry in stored})
    if stage is not None and stage not in stages:
        raise InputError(f"--stage {stage}: the store has no entries of it; it has {', '.join(stages) or 'nothing'}")
    entries = [entry for entry in reversed(stored) if stage in (None, entry.kind)]
    uses = runs_by_entry(run for run in recorded_runs() if run.folder is not None)
    rows = [_row(entry, uses.get((entry.kind, entry.key), [])) for entry in entries]
    total, limit = sum(entry.size for entry in entries), paths.store_bytes()
    lines = [f"{'stage':<10} {'key':<{SHOWN_KEY}} {'size':>9} {'used':>12}  runs"]
    for row in rows:
        runs = ", ".join(row["runs"]) or ("(in use)" if row["in_use"] else "-")
        size, used = decimal(row["bytes"]), age(row["used"])
        lines.append(f"{row['stage']:<10} {row['key'][:SHOWN_KEY]} {size:>9} {used:>12}  {runs}")
    sizes, counts = Counter[str](), Counter[str]()
    for entry in entries:
        sizes[entry.kind] += entry.size
        counts[entry.kind] += 1
    lines += [f"{kind}: {counts[kind]} {_entries(counts[kind])}, {decimal(size)}" for kind, size in sizes.most_common()]
    lines.append(
        f"{Store().root}: {len(entries)} entries, {decimal(total)} of at most {decimal(limit)} (LIVEAVATAR_STORE_GB); "
        f"entries unused for {environment.STORE_DAYS:.0f} days go by themselves"
    )
    tier = second_tier()
    if tier is not None:
        lines.append(
            f"second tier: {tier.name} (LIVEAVATAR_STORE_URL); its entries are not listed, and nothing there is deleted"
        )
    return {"root": str(Store().root), "bytes": total, "limit_bytes": limit, "entries": rows}, lines


def _row(entry: StoredEntry, runs: list[CatalogueRecord]) -> dict[str, Any]:
    return {
        "stage": entry.kind,
        "key": entry.key,
        "bytes": entry.size,
        "used": entry.used,  # s since 1970
        "in_use": entry.in_use,
        "runs": [run.out for run in runs],
    }


def gc(days: float | None, gigabytes: float | None, *, delete: bool) -> tuple[dict[str, Any], list[str]]:
    """Drop entries by age and size; without `delete`, only say which."""
    for name, value in (("days", days), ("gb", gigabytes)):
        if value is not None and not 0 <= value < 1e9:  # no for NaN, too
            raise InputError(f"--{name} {value:g}: give a number from 0 on")
    limits = environment.store_limits()
    most_bytes = limits[0] if gigabytes is None else int(gigabytes * 1e9)
    surplus = Store().surplus(most_bytes, limits[1] if days is None else days)
    gone = [entry for entry in surplus if not delete or Store().drop(entry)]
    size, number = decimal(sum(entry.size for entry in gone)), len(gone)
    lines = [
        f"{entry.kind:<10} {entry.key[:SHOWN_KEY]} {decimal(entry.size):>9} {age(entry.used):>12}" for entry in gone
    ]
    if not gone:
        lines.append("nothing to delete: no entry is that old, and the store is below that size")
    elif delete:
        lines.append(f"deleted {number} {_entries(number)}, {size}")
    else:
        lines.append(f"would delete {number} {_entries(number)}, {size}; nothing was deleted: add --yes to do it")
    in_use = sum(entry.in_use for entry in Store().entries())
    if in_use:
        lines.append(f"{in_use} entries are in use by jobs under way and stay")
    rows = [_row(entry, []) for entry in gone]
    return {"deleted": delete, "bytes": sum(entry.size for entry in gone), "entries": rows}, lines


def verify() -> tuple[list[dict[str, Any]], list[str]]:
    """Check the digests of all entries and of the files of published runs; list what is damaged."""
    entries, runs = Store().entries(), [run for run in recorded_runs() if run.folder is not None]
    faults: list[dict[str, Any]] = []
    for entry in entries:
        files = Store().damage(entry.kind, entry.key)
        if files:
            faults.append({"stage": entry.kind, "key": entry.key, "folder": str(entry.folder), "files": files})
    for run in runs:
        files = damaged_outputs(run)
        if files:
            faults.append({"stage": "run", "key": run.id, "folder": run.out, "files": files})
    records = damaged_records()
    for record in records:
        faults.append({"stage": "catalogue", "key": record.stem, "folder": str(record.parent), "files": [record.name]})
    lines = [f"damaged: {fault['folder']}: {', '.join(fault['files'])}" for fault in faults]
    entries_bad = sum(fault["stage"] not in ("run", "catalogue") for fault in faults)
    if entries_bad:
        lines.append("a damaged entry is made again when it is next needed; `liveavatar store rm KEY` deletes it now")
    if records:
        lines.append("a damaged record is written anew when its run is rendered again into its folder")
    if len(faults) > entries_bad + len(records):
        lines.append("a damaged run is made whole by rendering it again into its folder")
    lines.append(f"{len(entries)} entries and {len(runs) + len(records)} published runs checked, {len(faults)} damaged")
    return faults, lines


def damaged_outputs(run: CatalogueRecord) -> list[str]:
    """Name the files of a published run that are gone or not what its manifest says."""
    folder = Path(run.out)
    files = [name for name, digest in outputs_of(folder).items() if not has_digest(folder / name, digest)]
    return files if run.folder is not None else []  # it was replaced meanwhile


def rm(name: str) -> list[str]:
    """Delete an entry by its key, or the entries of a run that no other run has and its record in the catalogue.

    Raises:
        InputError: nothing has this name, or several things have.
        CapacityError: a job under way uses it.
    """
    runs = [run for run in recorded_runs() if name == run.id or str(Path(name).resolve()) == run.out]
    if runs:
        return _remove_run(runs[0])
    key = name.lower()
    if not KEY.fullmatch(key):
        raise InputError(
            f"store rm {name}: give {LEAST_KEY} or more digits of a key (`liveavatar store ls`), or the folder or id "
            "of a published run (`liveavatar runs`)"
        )
    found = [entry for entry in Store().entries() if entry.key.startswith(key)]
    if len(found) != 1:
        what = "no entry has this key" if not found else f"{len(found)} entries begin so; give more digits"
        raise InputError(f"store rm {name}: {what}; `liveavatar store ls` lists them")
    _drop(found)
    return [f"deleted {found[0].kind} {found[0].key[:SHOWN_KEY]}, {decimal(found[0].size)}"]


def _remove_run(run: CatalogueRecord) -> list[str]:
    others = runs_by_entry(other for other in recorded_runs() if other.id != run.id)
    own = [
        entry
        for entry in Store().entries()
        if run.stages.get(entry.kind) == entry.key and (entry.kind, entry.key) not in others
    ]
    _drop(own)
    forget_run(run)
    kept = f"; its folder {run.out} stays" if Path(run.out).exists() else ""
    return [f"deleted {len(own)} entries of {run.name}, {decimal(sum(entry.size for entry in own))}{kept}"]


def _drop(entries: list[StoredEntry]) -> None:
    """Delete entries, none where a job uses one of them."""
    used = next((entry for entry in entries if entry.in_use), None)
    for entry in entries if used is None else ():
        if not Store().drop(entry):
            used = entry
    if used is not None:
        raise CapacityError(
            f"{used.kind} {used.key[:SHOWN_KEY]} is used by a job under way; wait for its end, or end it with "
            "`liveavatar stop`"
        )


def _entries(number: int) -> str:
    return "entry" if number == 1 else "entries"


def age(since: float) -> str:
    """Say how long ago a time was, such as "3 h ago"."""
    seconds = max(0.0, time.time() - since)
    for unit, name in ((DAYS, "days"), (HOURS, "h"), (MINUTES, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"

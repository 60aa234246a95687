"""Differences between the keys of two runs of a stage, by name: the input, option, model, package or source file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PARTS = ("option", "input", "model", "package", "code")  # in the order of a summary
UPDATED = ("package", "code")  # change together
OPTIONS = ("options", "settings", "job")  # inputs that hold options by name
MOST_NAMED = 4  # differences that a summary names
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One difference; None stands for a thing that was not there."""

    part: str  # of PARTS
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.part == "code":
            return f"{self.name} {_verb(self.before, self.after)}"
        if _is_digest(self.before) or _is_digest(self.after):
            return f"{self.part} {self.name} {_verb(self.before, self.after)}"
        return f"{self.part} {self.name} {_short(self.before)} -> {_short(self.after)}"


def changes_between(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Name every difference between the parts of two keys (`StageKey.made_from`), options first, code last."""
    old, new = _flat(before), _flat(after)
    names = sorted(old.keys() | new.keys(), key=lambda name: (PARTS.index(name[0]), name[1]))
    return [
        Change(part=part, name=name, before=old.get((part, name)), after=new.get((part, name)))
        for part, name in names
        if old.get((part, name)) != new.get((part, name))
    ]


def closest(key: dict[str, Any], candidates: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Choose the candidate with the fewest differences to a key, the first of equal ones; None without candidates.

    However many source files or packages differ, they count as one difference: an update of the code comes between two
    runs of a job as one change, and a run of another job under the new code is no closer to it.
    """
    return min(candidates, key=lambda candidate: _distance(changes_between(candidate, key)), default=None)


def summary(changes: Iterable[Change]) -> str:
    """Name the first few differences in one line, and count the others."""
    named = [str(change) for change in changes]
    more = f"; and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return "; ".join(named[:MOST_NAMED]) + more


def _distance(changes: list[Change]) -> int:
    return len({change.part if change.part in UPDATED else (change.part, change.name) for change in changes})


def _flat(parts: dict[str, Any]) -> dict[tuple[str, str], Any]:
    flat: dict[tuple[str, str], Any] = {}
    for name, value in parts.get("inputs", {}).items():
        if name in OPTIONS:
            flat |= {("option", inner): v for inner, v in _leaves("", value)}
        elif name == "model":
            flat |= {("model", inner): v for inner, v in _leaves("weights" if isinstance(value, str) else "", value)}
        else:
            flat |= {("input", inner): v for inner, v in _leaves(name, value)}
    flat |= {("package", name): version for name, version in parts.get("packages", {}).items()}
    return flat | {("code", name): digest for name, digest in parts.get("code", {}).items()}


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}" if name else key, inner)]


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _verb(before: Any, after: Any) -> str:
    if before is None:
        return "is new"
    return "is gone" if after is None else "changed"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

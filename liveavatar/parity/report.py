"""Results of a parity run: one `Part` per comparison, as lines, JSON and an exit code."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from torch import Tensor

from liveavatar.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Outcome of one part: the largest difference of any of its tensors, or why it was skipped."""

    name: str
    max_abs_difference: float | None  # None: skipped
    tolerance: float
    ok: bool | None  # None: skipped
    detail: str  # the worst tensor, or the reason for skipping


@dataclass(slots=True)
class Comparison:
    """Collects differences between our tensors and expected ones."""

    worst: float = 0.0
    worst_name: str = ""
    count: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, ours: Tensor, expected: Tensor) -> None:
        """Compare one tensor; another shape or a non-finite value counts as an infinite difference."""
        self.count += 1
        if ours.shape != expected.shape:
            self.notes.append(f"{name}: shape {tuple(ours.shape)}, expected {tuple(expected.shape)}")
            difference = math.inf
        else:
            gap = (ours.double() - expected.double()).abs()
            difference = float(gap.max()) if gap.numel() else 0.0
            difference = math.inf if math.isnan(difference) else difference
        if difference >= self.worst:
            self.worst, self.worst_name = difference, name

    def part(self, name: str, tolerance: float) -> Part:
        """Return the outcome of the part."""
        if not self.count:
            return skipped(name, tolerance, "the set holds no tensor of this part")
        detail = "; ".join(self.notes) or f"worst of {self.count}: {self.worst_name}"
        return Part(
            name=name, max_abs_difference=self.worst, tolerance=tolerance, ok=self.worst <= tolerance, detail=detail
        )


def skipped(name: str, tolerance: float, reason: str) -> Part:
    """A part that could not be checked."""
    return Part(name=name, max_abs_difference=None, tolerance=tolerance, ok=None, detail=f"skipped: {reason}")


def exit_code(parts: Iterable[Part]) -> int:
    """Return 0 when every part that ran is within tolerance, else 1.

    Raises:
        InputError: when no part ran at all.
    """
    ran = [p for p in parts if p.ok is not None]
    if not ran:
        raise InputError(
            "the directory holds no parity fixture this command knows (dit_*.safetensors, vae_*.safetensors, ...); "
            "give a directory laid out as the public set"
        )
    return 0 if all(p.ok for p in ran) else 1


def to_lines(parts: Iterable[Part]) -> str:
    """One aligned line a part: name, max abs difference, tolerance, ok."""
    lines = []
    for p in parts:
        difference = "-" if p.max_abs_difference is None else f"{p.max_abs_difference:.2e}"
        verdict = {True: "ok", False: "FAILED", None: "skipped"}[p.ok]
        reason = "" if p.ok else f"  {p.detail}"
        lines.append(f"{p.name:<34} {difference:>9} {p.tolerance:>9.0e}  {verdict}{reason}")
    return "\n".join(lines) + "\n"


def to_json(parts: Iterable[Part]) -> str:
    """Format the parts as a JSON list; an infinite difference is written as the string "inf"."""
    rows = []
    for p in parts:
        row = asdict(p) | {"skipped": p.ok is None}
        if p.max_abs_difference is not None and math.isinf(p.max_abs_difference):
            row["max_abs_difference"] = "inf"
        rows.append(row)
    return json.dumps(rows, indent=2) + "\n"

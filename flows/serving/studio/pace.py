"""Time that a render will take, from those that ended: a share that is the same for all, and one that grows.

A render has three parts: until its first block (sound, plan, loading), its blocks, and judging and publishing.
Start-up is most of a short video and little of a long one, so each part has a line of its own over the sound's length.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, pairwise
from typing import Any

from flows.parameters import ungrouped
from flows.serving import environment
from flows.stored_inputs import AUDIO, StoredInput, input_of_path

environment.import_prefect()

from prefect.client.schemas.objects import Artifact, FlowRun  # noqa: E402 (Prefect reads the environment)

PACED = 8  # ended runs from which the pace is taken
APART = 1.5  # lengths of two sounds whose ratio is less tell nothing about the share that grows
ALIKE = ("model", "preset", "size", "sample_steps")  # options of which the pace of the blocks depends
DONE = 100.0  # percent

Point = tuple[float, float]  # length of a sound, duration of a part; both in seconds


@dataclass(frozen=True, slots=True)
class Growth:
    """Duration of a part of a render over the length of its sound, both in seconds."""

    fixed: float
    slope: float

    def at(self, length: float) -> float:
        """Compute the duration for a length."""
        return self.fixed + self.slope * length


def fitted(points: list[Point], *, grows: bool = False) -> Growth:
    """Fit a line that never falls: the median of the slopes between two points, and of what is left of each.

    Args:
        points: at least one.
        grows: what one length alone tells is taken to grow with it; else to be the same for every length.
    """
    shares = statistics.median(duration / length for length, duration in points)
    pairs = [sorted(pair) for pair in combinations(points, 2)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] >= APART * a[0]]
    if not slopes:
        return Growth(0.0, shares) if grows else Growth(statistics.median(duration for _, duration in points), 0.0)
    slope = min(max(0.0, statistics.median(slopes)), shares)
    return Growth(max(0.0, statistics.median(duration - slope * length for length, duration in points)), slope)


@dataclass(frozen=True, slots=True)
class Pace:
    """Expected duration of the three parts of a render."""

    before: Growth
    blocks: Growth
    after: Growth

    def whole(self, length: float) -> float:
        """Compute the duration of a whole render."""
        return self.before.at(length) + self.blocks.at(length) + self.after.at(length)


def pace_of(runs: Iterable[FlowRun], progress: Mapping[Any, Artifact], run: FlowRun) -> Pace | None:
    """Compute the pace for a run from others that made a video.

    Args:
        runs: that ended with one, the newest first; those with the same model, preset and size count if there are any.
        progress: of their blocks, by the runs' ids.
        run: that is asked about.
    """
    ended = [other for other in runs if other.run_count <= 1 and _length(other)]  # a resumed one has stood still
    alike = [other for other in ended if _options(other) == _options(run)] or ended
    parts = [found for other in alike if (found := _parts(other, progress.get(other.id))) is not None][:PACED]
    if parts:
        before, blocks, after = ([(length, part[n]) for length, part in parts] for n in range(3))
        return Pace(fitted(before), fitted(blocks, grows=True), fitted(after))
    totals = [(_length(other), other.total_run_time.total_seconds()) for other in alike[:PACED]]
    return Pace(Growth(0.0, 0.0), fitted(totals, grows=True), Growth(0.0, 0.0)) if totals else None


def left_of(run: FlowRun, progress: Artifact | None, pace: Pace | None, now: datetime) -> float | None:
    """Compute the seconds until the end of a run, by its own pace once it makes blocks.

    None where nobody knows, and when they should have passed.
    """
    length, begun = _length(run), begun_at(run)
    known = pace if length else None
    if progress is not None and progress.updated is not None:
        since = (now - progress.updated).total_seconds()
        after = 0.0 if known is None else known.after.at(length)
        percent = float(str(progress.data))
        if percent >= DONE and known is not None:
            return _ahead(after - since)
        blocks = _blocks_left(progress, percent)
        if blocks is not None and blocks > since:
            return blocks - since + after
    passed = (now - begun).total_seconds() if begun is not None else 0.0
    return None if known is None else _ahead(known.whole(length) - passed)


def begun_at(run: FlowRun) -> datetime | None:
    """Return when a run began, a resumed one for the last time; None before."""
    again = run.run_count > 1 and run.state is not None and run.state.is_running()
    return run.state.timestamp if again and run.state is not None else run.start_time


def stored_input(run: FlowRun, option: str) -> StoredInput | None:
    """Find the file of the studio page that an option of a run names."""
    return input_of_path(str(_given(run).get(option, "")))


def _given(run: FlowRun) -> dict[str, Any]:
    given = run.parameters.get("parameters")
    return ungrouped(given) if isinstance(given, dict) else {}


def _options(run: FlowRun) -> list[Any]:
    given = _given(run)
    return [given.get(name) for name in ALIKE]


def _length(run: FlowRun) -> float:
    """Return the seconds of a run's sound; 0 where nobody knows."""
    sound = stored_input(run, AUDIO)
    return (sound.seconds or 0.0) if sound is not None else 0.0


def _parts(run: FlowRun, progress: Artifact | None) -> tuple[float, tuple[float, float, float]] | None:
    """Return the length of a run's sound and the seconds of its parts; None when its blocks came from the store."""
    if progress is None or float(str(progress.data)) < DONE:
        return None
    times = (run.start_time, progress.created, progress.updated, run.end_time)
    known = [time for time in times if time is not None]
    if len(known) < len(times) or sorted(known) != known or known[1] == known[2]:
        return None
    before, blocks, after = ((b - a).total_seconds() for a, b in pairwise(known))
    return _length(run), (before, blocks, after)


def _blocks_left(progress: Artifact, percent: float) -> float | None:
    """Compute the seconds from the last report until all blocks are made; None after the first report."""
    if progress.created is None or progress.updated is None or percent <= 0:
        return None
    passed = (progress.updated - progress.created).total_seconds()
    return passed * (DONE - percent) / percent if passed > 0 else None


def _ahead(seconds: float) -> float | None:
    """Return seconds that are to come; None for those that have passed."""
    return seconds if seconds > 0 else None

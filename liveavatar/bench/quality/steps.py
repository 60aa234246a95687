"""Sampling steps against quality and time on the evaluation split, and the steps that each size needs.

A size *needs* the fewest steps whose lips and skin come close to the best that any number of steps reaches there:
sync error within `SYNC_SLACK` frames and texture within `TEXTURE_SLACK` dB, or openness where no pose can be given.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from liveavatar.bench.quality import judge
from liveavatar.bench.quality.bench import QualityBench
from liveavatar.engine.sampling import sigma_steps
from liveavatar.files import plain
from liveavatar.load import load_engine
from liveavatar.quality.split import FOLDER, load_split
from liveavatar.timing import FPS

SYNC_SLACK, TEXTURE_SLACK, OPENNESS_SLACK = 0.15, 0.3, 0.01
MEASURES = (
    *("sync_error_frames", "texture_psnr", "jerk_index", "openness_corr", "edge_jump", "identity_ratio"),
    *("ms_per_frame",),
)


def sweep_split(
    model_dir: Path, steps: list[int], limit: int | None, say: Callable[[str], None], folder: Path = FOLDER
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Render and judge the split with every number of steps; yields the tables so far after each.

    Args:
        model_dir: of the model.
        steps: numbers of denoise steps.
        limit: clips to use; all when None.
        say: called with a line about every clip.
        folder: of the split.

    Yields:
        One row for every number of steps (the whole split), and one for every size with the steps that it needs.

    Raises:
        InputError: no split, or the model has no such number of steps.
    """
    clips = load_split(folder, limit)
    engine = load_engine(model_dir)
    for count in steps:
        sigma_steps(engine.config, count)
    with tempfile.TemporaryDirectory(prefix="liveavatar-sweep-") as name:
        bench = QualityBench(engine, clips, Path(name), say)
        rows: list[dict[str, Any]] = []
        by_size: dict[str, list[dict[str, Any]]] = {}
        for count in steps:
            pairs = bench.judge_split(count, eyed=False)
            rows.append(_row(count, "all", pairs))
            groups: dict[str, list[judge.Pair]] = {}
            for true, pair in zip(bench.true, pairs, strict=True):
                height, width = true.scene.photo.shape[:2]
                groups.setdefault(f"{width}*{height}", []).append(pair)
            for size, part in sorted(groups.items()):
                by_size.setdefault(size, []).append(_row(count, size, part))
            yield plain(rows), plain([recommend(size, part) for size, part in by_size.items()])


def _row(steps: int, size: str, pairs: list[judge.Pair]) -> dict[str, Any]:
    values = judge.summarise(pairs).rendered
    return {"steps": steps, "size": size, "clips": len(pairs), **{name: values.get(name) for name in MEASURES}}


def recommend(size: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Pick the row of the fewest steps that are as good as any, with the reason; see the module's head."""

    def close(row: dict[str, Any], name: str, slack: float, highest: bool) -> bool:
        present = [r[name] for r in rows if r[name] is not None]
        if not present or row[name] is None:
            return not present
        return row[name] >= max(present) - slack if highest else row[name] <= min(present) + slack

    skin = "texture_psnr" if any(r["texture_psnr"] is not None for r in rows) else "openness_corr"
    slack = TEXTURE_SLACK if skin == "texture_psnr" else OPENNESS_SLACK
    enough = [r for r in rows if close(r, "sync_error_frames", SYNC_SLACK, False) and close(r, skin, slack, True)]
    # Lips and skin may be best at different numbers of steps: then the lips decide.
    enough = enough or [r for r in rows if close(r, "sync_error_frames", SYNC_SLACK, False)] or rows
    chosen = min(enough, key=lambda r: r["steps"])
    real_time = chosen["ms_per_frame"] is not None and chosen["ms_per_frame"] <= 1000 / FPS
    return {
        "size": size,
        "recommended_steps": chosen["steps"],
        "real_time_here": real_time,
        **{name: chosen[name] for name in MEASURES},
        "clips": chosen["clips"],
        "of_steps": ",".join(str(r["steps"]) for r in rows),
    }

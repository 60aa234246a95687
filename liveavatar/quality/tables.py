"""Tables of a video: `frames.parquet` and `blocks.parquet`, and the clock that joins picture and sound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from liveavatar.quality import sync
from liveavatar.quality.observe import Observation
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SECONDS, FPS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Clock:
    """Mapping between video frames and the sound's 25 ticks a second, for any frame rate and with gaps."""

    num_ticks: int
    frame_of_tick: np.ndarray  # which frame is on the screen
    tick_of_frame: np.ndarray

    @classmethod
    def of(cls, seconds_T: np.ndarray) -> "Clock":
        num_ticks = round(float(seconds_T[-1]) * FPS) + 1
        late = np.arange(num_ticks) / FPS + 0.5 / FPS  # the middle of a tick: time stamps may be rounded
        frame_of_tick = np.searchsorted(seconds_T, late, "right") - 1
        return cls(num_ticks, frame_of_tick, np.clip(np.round(seconds_T * FPS).astype(int), 0, num_ticks - 1))


def frames_table(seen: Observation, speech: sync.Speech, clock: Clock) -> "pd.DataFrame":
    """Build the table with one row a frame: readings of the picture, and the sound at that time."""
    import pandas as pd

    ticks = clock.tick_of_frame
    return pd.DataFrame(
        {
            "frame": np.arange(len(ticks)),
            "seconds": seen.seconds,
            "block": ticks // BLOCK_FRAMES,
            "face_found": np.isfinite(seen.openness),
            "presence": seen.presence,
            "openness": seen.openness,
            "mouth_width": seen.mouth_width,
            "envelope": speech.envelope_T[ticks],
            "vowel_envelope": speech.vowels_T[ticks],
            "speech": sync.speech_mask(speech.envelope_T)[ticks],
            "silence": sync.silence_mask(speech.envelope_T)[ticks],
            "speed": seen.speed,
            "head_x": seen.head_x,
            "head_y": seen.head_y,
            "roll": seen.roll,
            "change": seen.change,
            "luminance": seen.luminance,
            "contrast": seen.contrast,
            "sharpness_ratio": seen.sharpness_ratio,
            "texture_psnr": seen.texture_psnr,
            "identity": seen.identity,
        }
    )


def blocks_table(frames: "pd.DataFrame", timings: Sequence[Mapping[str, float]]) -> "pd.DataFrame":
    """Average the frames of each block, joined with the timings of the block loop if there are any.

    Adds `block_ms`, the time a block took (`wall_ms` where given, else denoising + decoding), and `deadline_missed`:
    that was longer than the 480 ms the block plays.
    """
    import pandas as pd

    blocks = (
        frames.groupby("block")
        .agg(
            first_frame=("frame", "min"),
            num_frames=("frame", "size"),
            start_s=("seconds", "min"),
            openness=("openness", "mean"),
            envelope=("envelope", "mean"),
            speed=("speed", "mean"),
            change=("change", "mean"),
            edge_change=("change", "first"),
            sharpness_ratio=("sharpness_ratio", "mean"),
            texture_psnr=("texture_psnr", "mean"),
            identity=("identity", "mean"),
            face_share=("face_found", "mean"),
        )
        .reset_index()
    )
    if not timings:
        return blocks
    extra = pd.DataFrame([dict(t) for t in timings])
    extra = extra.drop(columns=[c for c in ("block", "index") if c in extra])
    extra.insert(0, "block", [int(t.get("index", i)) for i, t in enumerate(timings)])
    for part in ("denoise", "decode"):
        if f"{part}_s" in extra:
            extra[f"{part}_ms"] = 1000 * extra.pop(f"{part}_s")
    if "wall_ms" in extra:
        extra["block_ms"] = extra.pop("wall_ms")
    elif {"denoise_ms", "decode_ms"} <= set(extra):
        extra["block_ms"] = extra["denoise_ms"] + extra["decode_ms"]
    if "block_ms" in extra:
        extra["deadline_missed"] = extra["block_ms"] > 1000 * BLOCK_SECONDS
    return blocks.merge(extra, on="block", how="left")

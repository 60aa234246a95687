"""Lips driven by a noisy voice, before and after the pipeline's noise reduction.

Each clip's speech, mixed with steady noise (a fan, mains hum), drives the portrait as it is and cleaned as a render
cleans it; the split's own video is driven by the clean sound. All are compared with the clean sound and the true video.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from liveavatar.audio.enhance import enhance
from liveavatar.bench.quality import judge
from liveavatar.bench.quality.bench import QualityBench
from liveavatar.bench.quality.videos import make_scene, render_scene
from liveavatar.bench.sound.noises import mix
from liveavatar.timing import SAMPLE_RATE

SNR_DB = 0.0  # speech over noise, by mean power
CLIPS = 3
HUM_HZ, HUM_SHARE = 100.0, 0.2  # of the noise's power
MEASURES = ("sync_error_frames", "av_correlation", "silent_lip")


def with_noise(speech: np.ndarray, seed: int, snr_db: float = SNR_DB) -> np.ndarray:
    """Mix speech (float32 mono 16 kHz) with steady noise, scaled so that nothing clips."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(len(speech)))
    frequency = np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE)
    fan = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 60.0)), len(speech))
    time = np.arange(len(speech)) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * HUM_HZ * k * time) / k for k in (1, 2, 3))
    noise = np.sqrt(1 - HUM_SHARE) * fan / fan.std() + np.sqrt(HUM_SHARE) * hum / np.std(hum)
    return mix(speech, noise, snr_db)[0]


def judge_noisy(
    bench: QualityBench, pairs: list[judge.Pair], steps: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Render and measure three clips with clean, noisy and cleaned sound; one row per clip and sound.

    Args:
        bench: engine and clips.
        pairs: of the same clips, at the same number of steps: the videos that the clean sound drove.
        steps: denoise steps.
        say: receives one line per video.
    """
    rows = []
    for number, (true, pair) in enumerate(zip(bench.true[:CLIPS], pairs, strict=False)):
        clip = true.clip
        clean = clip.speech()
        noisy = with_noise(clean, number)
        cleaned = enhance(noisy, "auto", "tiny.en")
        videos = {"clean": pair.rendered}
        for name, sound in {"noisy": noisy, "cleaned": cleaned.audio}.items():
            folder = bench.folder / "noisy" / f"{clip.info.name}-{name}"
            scene = make_scene(folder, clip.photo(), sound, clip.info.caption, bench.engine)
            videos[name] = judge.look(render_scene(bench.engine, scene, steps), scene.photo, clean, bench.tracker)
        for name, seen in videos.items():
            row: dict[str, Any] = {"clip": clip.info.name, "sound": name}
            row |= {m: seen.values.get(m) for m in MEASURES}
            alike = judge.opened_correlation(seen.faces.openness, true.seen.faces.openness)
            row["openness_corr"] = alike if np.isfinite(alike) else None
            row["cleaning"] = str(cleaned.verdict["chosen"]) if name == "cleaned" else ""
            rows.append(row)
            say(f"clip {clip.info.name}, {name} sound: openness correlation {alike:.2f}")
    return rows


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Average each measure over the clips that have it, by sound."""
    averages: dict[str, dict[str, float]] = {}
    for sound in dict.fromkeys(r["sound"] for r in rows):
        for name in (*MEASURES, "openness_corr"):
            values = [r[name] for r in rows if r["sound"] == sound and r[name] is not None]
            if values:
                averages.setdefault(sound, {})[name] = float(np.mean(values))
    return averages

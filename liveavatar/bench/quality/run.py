"""`liveavatar bench quality`: render the split, measure it, and compare it with the goals."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from liveavatar.bench.quality import judge
from liveavatar.bench.quality.bench import QualityBench, Say
from liveavatar.bench.quality.noisy import judge_noisy
from liveavatar.bench.quality.prompts import try_prompts, videos_to_show
from liveavatar.bench.quality.recordings import find_recordings, judge_recordings
from liveavatar.bench.quality.report import contact_sheet, write_report
from liveavatar.engine.engine import Engine
from liveavatar.engine.sampling import sigma_steps
from liveavatar.files import plain
from liveavatar.load import load_engine
from liveavatar.quality import goals
from liveavatar.quality.split import FOLDER, load_split

log = logging.getLogger(__name__)

# Keys that the JSON always has, null with a reason when there is no number.
CONTRACT = (
    *("openness_corr", "width_corr", "av_offset_frames", "sync_error_frames", "lip_sync", "silent_lip"),
    *("identity_min", "identity_drift", "texture_psnr", "sharpness_ratio", "flicker", "jerk_index", "motion_energy"),
    *("dropped_frames", "duration_error_s", "ae_psnr", "ae_psnr_mouth", "ae_energy", "edge_jump", "ms_per_frame"),
    "texture_psnr_eyes",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityOptions:
    """Options of a benchmark run."""

    model_dir: Path
    clips: int | None = None  # the first so many of the split; all when None
    steps: int = 4
    recordings: Path | None = None  # folder of natural recordings, judged against their sound alone
    out: Path | None = None  # videos, contact sheets and a report go there; nothing is kept when None
    full: bool = True  # also prompts that differ in a phrase, a noisy voice, and two minutes in one go for the drift
    posed: bool = True  # also with the true head pose, which `texture_psnr` needs, and with the true eyes besides
    folder: Path = FOLDER  # of the split


def run(options: QualityOptions, say: Say = log.info) -> dict[str, Any]:
    """Measure a model and return the JSON of `liveavatar bench quality --json`.

    Raises:
        InputError: no split, no recordings, or a number of steps out of range.
    """
    clips = load_split(options.folder, options.clips)
    if options.recordings is not None:
        find_recordings(options.recordings)
    began = time.perf_counter()
    engine = load_engine(options.model_dir)
    sigma_steps(engine.config, options.steps)
    with _workplace(options.out) as folder:
        bench = QualityBench(engine, clips, folder, say)
        pairs = bench.judge_split(options.steps, options.posed)
        summary = judge.summarise(pairs)
        values = summary.rendered | judge.judge_autoencoder(engine, clips, bench.tracker)
        words, noisy = [], []
        if options.full:
            values |= bench.likeness_lost(options.steps)
            words = try_prompts(engine, bench.true[min(1, len(clips) - 1)].scene, bench.tracker, options.steps)
            noisy = judge_noisy(bench, pairs, options.steps, say)
        recordings = []
        if options.recordings is not None:
            recordings = judge_recordings(engine, options.recordings, clips, options.steps, folder, say)
        result = _result(options, engine, replace(summary, rendered=values))
        result |= {
            "clips": len(pairs),
            "per_clip": judge.plain_rows(pairs),
            "prompt_words": words,
            "noisy_voice": noisy,
            "recordings": recordings,
        }
        result["seconds"] = round(time.perf_counter() - began, 1)
        result = plain(result)
        if options.out is not None:
            if options.full:
                shown = bench.true[min(1, len(clips) - 1)]
                videos = videos_to_show(engine, shown.scene, options.out, options.steps)
                contact_sheet(videos, options.out / "sheet_quiet_lively.jpg", shown.labels.mouth)
            write_report(options.out, result, bench.true, options.steps)
    return result


def _explained(options: QualityOptions, engine: Engine, reasons: dict[str, str]) -> dict[str, str]:
    if not options.full:
        missing = "the video of two minutes was left out (--quick, --clips)"
        reasons = reasons | {"identity_loss_120s": missing, "identity_drift": missing}
    if not engine.config.pose_guided:
        missing = f"the model {engine.config.name} cannot be given a head pose"
        reasons = reasons | {"texture_psnr": missing, "texture_psnr_eyes": missing}
    elif not engine.config.lids_conditioned:
        reasons = reasons | {"texture_psnr_eyes": f"the model {engine.config.name} cannot be conditioned on eyes"}
    return reasons


def _result(options: QualityOptions, engine: Engine, summary: judge.Summary) -> dict[str, Any]:
    values, reasons = summary.rendered, _explained(options, engine, summary.reasons)
    checks = goals.check(values, reasons, summary.gaps)
    names = dict.fromkeys([*CONTRACT, *values])
    return {
        **{name: values.get(name) for name in names},
        "truth": summary.true,
        "gaps": summary.gaps,
        "checks": [asdict(c) for c in checks],
        "missed": [c.name for c in checks if c.ok is False],
        "unmeasured": [c.name for c in checks if c.ok is None],
        "reasons": {name: reasons.get(name, "not measured") for name in names if values.get(name) is None},
        "model": str(options.model_dir.name),
        "split": options.folder.name,
        "steps": options.steps,
        "device": str(engine.device),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "date": time.strftime("%Y-%m-%d"),
    }


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    """Provide a folder for videos: below `out`, or a temporary one."""
    if out is not None:
        folder = out / "videos"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="liveavatar-quality-") as name:
        yield Path(name)

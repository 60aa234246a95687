"""Reports of the benchmark: terminal lines, a dated markdown page, contact sheets."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.bench.quality.bench import TrueClip
from liveavatar.bench.quality.noisy import MEASURES, SNR_DB, means
from liveavatar.bench.quality.videos import Video, video_frames
from liveavatar.quality.goals import bound_text

SHEET_FRAMES, SHEET_STEP = 12, 6
MOUTH_SIDE = 96  # pixels of the cut around the mouth
CLIP_COLUMNS = (
    *("openness_corr", "width_corr", "sync_error_frames", "silent_lip", "identity_min", "texture_psnr", "edge_jump"),
    *("blink_depth", "head_spread", "motion_energy", "jerk_index", "reader_openness_corr", "reader_width_corr"),
)
OTHERS = (
    *("lag_frames", "lip_sync", "av_correlation", "openness_corr_whole", "width_corr_whole", "openness_amplitude"),
    *("openness_corr_labels", "width_corr_labels"),
    *("lids_corr", "identity_min", "identity_drift", "long_identity_min", "long_edge_jump", "texture_psnr_portrait"),
    *(
        "texture_psnr_eyes",
        "energy_face",
        "eyes_error_share",
        "eyes_area_share",
        "frame_psnr",
        "ae_energy_mouth",
        "ae_change",
        "ae_openness_corr",
        "ae_width_corr",
        "film_psnr",
        "sharpness_ratio",
        "flicker",
        "jerk_index",
    ),
    *("motion_energy", "blink_depth", "head_spread", "silent_openness", "openness_range", "dropped_frames"),
    *("repeated_frames", "duration_error_s", "face_share", "reader_openness_corr", "reader_width_corr"),
    *("reader_lids_corr", "reader_head_corr", "ms_per_frame", "block_ms"),
)

NOISY_COLUMNS = ("driven by", "openness_corr", *MEASURES)
WORD_COLUMNS = ("phrase changed", "effect", "asked", "in the corpus", "unit", "seen")


def lines(result: dict[str, Any]) -> list[str]:
    """Format the terminal output: the table of goals, then all other measures beside the true video."""
    table = [("measure", "value", "true video", "limit", "goal", "")]
    for c in result["checks"]:
        verdict = {True: "ok", False: "MISSED", None: f"not measured: {c['reason']}"}[c["ok"]]
        verdict = "goal" if c["goal_reached"] else verdict
        verdict += f" ({c['reason']})" if c["ok"] is False and c["reason"] else ""
        true = number(result["truth"].get(c["name"]))
        table.append((c["name"], number(c["value"]), true, bound_text(c["sense"], c["limit"]),
                      bound_text(c["sense"], c["goal"]), verdict))  # fmt: skip
    shown = aligned(table)
    rest = [("also measured", "value", "true video")]
    rest += [(n, number(result[n]), number(result["truth"].get(n))) for n in OTHERS if result.get(n) is not None]
    shown += ["", *aligned(rest)]
    if result["prompt_words"]:
        shown += ["", *aligned([WORD_COLUMNS, *_word_rows(result)])]
    if result["noisy_voice"]:
        shown += ["", *aligned([NOISY_COLUMNS, *_noisy_rows(result)])]
    if result["recordings"]:
        names = ("recording", "portrait", "av_offset_frames", "sync_error_frames", "lip_sync", "silent_lip",
                 "identity_min", "note")  # fmt: skip
        shown += ["", *aligned([names, *(tuple(_cell(r[n]) for n in names) for r in result["recordings"])])]
    missed = ", ".join(result["missed"]) or "none"
    shown += ["", f"{result['model']}, {result['steps']} steps, {result['clips']} clips; limits missed: {missed}"]
    return shown


def markdown(result: dict[str, Any]) -> str:
    """Format the markdown page of a run."""
    head = (
        f"# Quality of {result['model']} at {result['steps']} steps, {result['date']}\n\n"
        f"{result['clips']} held-out clips of `data/evaluation`, rendered by the engine ({result['device']}, "
        f"{result['dtype']}) and read by the product's landmark tracker; {result['seconds']:.0f} s. Command: "
        "`liveavatar bench quality`. Measures are defined in `liveavatar/quality` and `liveavatar/bench/quality`.\n"
    )
    goal_rows = [
        (c["name"], number(c["value"]), number(result["truth"].get(c["name"])), bound_text(c["sense"], c["limit"]),
         bound_text(c["sense"], c["goal"]),
         {True: "yes", False: "**no**", None: "-"}[c["ok"]], {True: "yes", False: "no", None: "-"}[c["goal_reached"]],
         c["what"] + (f" ({c['reason']})" if c["reason"] else ""))
        for c in result["checks"]
    ]  # fmt: skip
    parts = [
        head,
        markdown_table(("measure", "value", "true video", "limit", "goal", "kept", "goal reached", "what"), goal_rows),
    ]
    rest = [(n, number(result[n]), number(result["truth"].get(n))) for n in OTHERS if result.get(n) is not None]
    parts += ["## Also measured\n", markdown_table(("measure", "value", "true video"), rest)]
    columns = ("clip", *CLIP_COLUMNS)
    parts += [
        "## Clip by clip\n",
        markdown_table(columns, [[_cell(r.get(c)) for c in columns] for r in result["per_clip"]]),
    ]
    if result["prompt_words"]:
        parts += ["## Words of the prompt\n", markdown_table(WORD_COLUMNS, _word_rows(result))]
    if result["noisy_voice"]:
        intro = (
            f"Speech in noise of a fan and of mains, {SNR_DB:.0f} dB; videos are judged against the clean sound and "
            "the true video, mean over clips.\n"
        )
        parts += [
            "## A noisy voice before and after cleaning\n",
            intro,
            markdown_table(NOISY_COLUMNS, _noisy_rows(result)),
        ]
    if result["recordings"]:
        columns = tuple(c for c in result["recordings"][0] if c != "reasons")
        rows = [[_cell(r[c]) for c in columns] for r in result["recordings"]]
        parts += ["## Natural recordings, against the sound alone\n", markdown_table(columns, rows)]
    return "\n".join(parts)


def _word_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            w["words"],
            number(w["effect"]),
            number(w["asked"]),
            number(w["true"]),
            w["unit"],
            "yes" if w["seen"] else "NO",
        )
        for w in result["prompt_words"]
    ]


def _noisy_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    averages = means(result["noisy_voice"])
    return [(sound, *(number(row.get(c)) for c in NOISY_COLUMNS[1:])) for sound, row in averages.items()]


def write_report(out: Path, result: dict[str, Any], clips: list[TrueClip], steps: int) -> None:
    """Write `quality.json`, the dated page and the contact sheets."""
    (out / "quality.json").write_text(json.dumps(result, indent=1))
    (out / f"quality_{result['model']}_{result['date']}.md").write_text(markdown(result))
    for true in clips:
        folder = true.scene.folder
        videos = [Video(folder / f"{name}.mp4") for name in ("truth", f"steps{steps}", f"steps{steps}-posed")]
        shown = [f for f in videos if f.path.is_file()]
        contact_sheet(shown, out / f"sheet_{true.clip.info.name}.jpg", true.labels.mouth)


def contact_sheet(videos: Iterable[Video], path: Path, mouth: np.ndarray) -> None:
    """Write a picture with two rows per video: whole frames, and the cut around the mouth.

    Args:
        videos: of one clip.
        path: of the JPEG.
        mouth: its centre in the photo, pixels.
    """
    rows = []
    for video in videos:
        frames = video_frames(video)
        start = min(60, max(0, len(frames) - SHEET_STEP * SHEET_FRAMES))
        some = frames[start : start + SHEET_STEP * SHEET_FRAMES : SHEET_STEP]
        height, width = some.shape[1:3]
        top = int(np.clip(mouth[1] - MOUTH_SIDE / 2, 0, height - MOUTH_SIDE))
        left = int(np.clip(mouth[0] - MOUTH_SIDE / 2, 0, width - MOUTH_SIDE))
        cut = some[:, top : top + MOUTH_SIDE, left : left + MOUTH_SIDE]
        whole = np.concatenate(list(some[:, ::2, ::2]), 1)
        mouths = Image.fromarray(np.concatenate(list(cut), 1))
        tall = round(mouths.height * whole.shape[1] / mouths.width)
        rows += [whole, np.asarray(mouths.resize((whole.shape[1], tall)))]
    Image.fromarray(np.concatenate(rows)).save(path, quality=88)


def number(value: float | None) -> str:
    """Format a number."""
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad all columns but the last to equal width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else number(value)


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a markdown table."""
    names = list(columns)
    text = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *(f"| {' | '.join(r)} |" for r in rows)]
    return "\n".join(text) + "\n"

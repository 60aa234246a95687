"""Model card, written from the records of a training run.

Sources are `evaluation.json` (held-out measures of all candidates), `quality.json` (output of `liveavatar bench quality
--out` for the exported weights), the stages' `*.jsonl` (losses over time) and the exported files.
Only the prose is written by hand.
"""

import json
from pathlib import Path
from typing import Any

from liveavatar.audio.encoders import low_rank
from liveavatar.quality.goals import bound_text

CARD = "model_card.md"
PROSE = Path(__file__).parent / "model_card_prose.md"
COLUMNS = {
    "openness_corr": "mouth openness, correlation",
    "openness_corr_min": "worst clip",
    "width_corr": "mouth width, correlation",
    "openness_ratio": "openness amplitude",
    "lag_frames": "lag, frames",
    "energy_face": "face gradient energy",
    "head_ratio": "head motion",
    "pose_error_deg": "head pose error, degrees",
    "texture_psnr": "face PSNR, dB",
    "eyes_ratio": "lid motion",
    "edge_jump": "block-edge step",
    "drift_end": "colour offset at the end",
}
CURVES = {
    "autoencoder": ("seconds", "step", "loss", "ae_psnr", "ae_psnr_mouth", "ae_energy"),
    "tuning": ("seconds", "step", "openness", "width"),
    "teacher": ("seconds", "step", "loss", "held_3_mouth", "held_6_mouth", "held_9_mouth"),
}
CURVE_ROWS = 8
READER = """Held-out clips show avatars, sentences and partly voices that training never saw. Face values are read off
the pictures by a small network trained on rendered frames for this purpose alone (`training/probe.py`); the row `truth`
is that reader on the true video, so it is the ceiling. Ratios compare with the truth, 1 = equal. `name@n` is network
`name` at n steps; with `+pose` it got the true head pose, without which the face's PSNR says little."""


def write_card(run: Path, out: Path, weights: str) -> None:
    """Write `model_card.md` into the model directory `out` for the weights named `weights` of `run`."""
    parts = [PROSE.read_text().rstrip(), f"The exported weights are those called `{weights}`."]
    if (out / low_rank.FILE).is_file():
        parts.append(f"The speech encoder is heard with the corrections in `{low_rank.FILE}`.")
    evaluation = run / "evaluation.json"
    if evaluation.is_file():
        rows = json.loads(evaluation.read_text())["rows"]
        parts += [f"## Held-out measures\n\n{READER}"]
        parts.append(measures_table(rows))
        parts.append(_autoencoder_line(rows.get("autoencoder", {})))
    quality = run / "quality.json"
    if quality.is_file():
        parts += ["## Evaluation split", goals_table(json.loads(quality.read_text()))]
    for stage, columns in CURVES.items():
        path = run / f"{stage}.jsonl"
        if path.is_file():
            parts += [f"## Course of the {stage}", curve_table(_records(path), columns)]
    files = sorted(p for p in out.iterdir() if p.suffix == ".safetensors")
    if files:
        listed = "\n".join(f"| {p.name} | {p.stat().st_size / 1e6:.1f} MB |" for p in files)
        parts += ["## Files", f"| file | size |\n|---|---|\n{listed}"]
    (out / CARD).write_text("\n\n".join(p for p in parts if p) + "\n")


def measures_table(rows: dict[str, dict[str, float]]) -> str:
    """Format the markdown table of candidates (`name@steps`, `truth`, `autoencoder`) against the measures."""
    head = "| | " + " | ".join(COLUMNS.values()) + " |\n|---|" + "---|" * len(COLUMNS)
    lines = [f"| {name} | " + " | ".join(_number(row.get(c)) for c in COLUMNS) + " |" for name, row in rows.items()]
    return "\n".join([head, *lines])


def goals_table(quality: dict[str, Any]) -> str:
    """Format measures of `liveavatar bench quality` against the goals as a markdown table."""
    head = (
        f"`liveavatar bench quality`: {quality['clips']} clips of `data/evaluation`, {quality['steps']} steps, "
        f"{quality['dtype']} on a {quality['device'].upper()}. People, voices and sentences that training never saw; "
        "the same landmark reader looks at the made and the true videos.\n\n"
        "| measure | value | true video | limit | goal | kept |"
    )
    lines = [
        f"| {c['what']} (`{c['name']}`) | {_number(c['value'])} | {_number(quality['truth'].get(c['name']))} | "
        f"{bound_text(c['sense'], c['limit'])} | {bound_text(c['sense'], c['goal'])} | "
        f"{'yes' if c['ok'] else 'no' if c['ok'] is False else ''} |"
        for c in quality["checks"]
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def curve_table(records: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Format a markdown table of a few evenly spaced records that have every column."""
    full = [r for r in records if all(c in r for c in columns)]
    picked = (
        full
        if len(full) <= CURVE_ROWS
        else [full[round(i * (len(full) - 1) / (CURVE_ROWS - 1))] for i in range(CURVE_ROWS)]
    )
    head = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
    return "\n".join([head, *("| " + " | ".join(_number(r[c]) for c in columns) + " |" for r in picked)])


def _autoencoder_line(row: dict[str, float]) -> str:
    if "ae_psnr" not in row:
        return ""
    return (
        f"Autoencoder alone on held-out clips: {row['ae_psnr']:.2f} dB, mouth box {row['ae_psnr_mouth']:.2f} dB, "
        f"gradient energy kept {row['ae_energy']:.0%} (mouth {row['ae_energy_mouth']:.0%}), step at block edges "
        f"{row['ae_edge_jump']:.2f} of the render's."
    )


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3f}"

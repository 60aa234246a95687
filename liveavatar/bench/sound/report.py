"""Report of the sound bench: a table by noise and level, and what was harmed."""

from pathlib import Path

import numpy as np

from liveavatar.bench.dated import today, write_dated
from liveavatar.bench.sound.run import SoundRow, summary, to_json


def lines(rows: list[SoundRow]) -> list[str]:
    """Write the rows as a table, with the summary above it."""
    total = summary(rows)
    out = [
        f"{total['conditions']} conditions of {len({row.voice for row in rows})} voices that set no rule; "
        f"harmed (published words wrong +1 %, or distortion +1 dB): {len(total['harmed'])}.",
        f"Word error rate of the published words {total['wer_before']:.3f} before, {total['wer_after']:.3f} after.",
        f"What Whisper hears in the sound alone, guesses included, is better in {total['clearer']} and worse in "
        f"{len(total['misheard'])}.",
    ]
    if total["dnsmos_gain_noisy"] is not None:
        out.append(f"DNSMOS gains {total['dnsmos_gain_noisy']:+.2f} on average at 10 dB and below.")
    out.append(f"At 20 dB the sound was left as it is in {total['kept_clean']}.")
    out += [
        "",
        "| noise | level | WER | DNSMOS | SI-SDR, dB | chosen | clicks |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise, level in dict.fromkeys((row.noise, row.level) for row in rows):
        group = [row for row in rows if (row.noise, row.level) == (noise, level)]
        unit = f"{level:g} s" if noise == "room" else f"{level:g} dB"
        names = [row.chosen for row in group]
        cells = (
            noise,
            unit,
            _change(group, "wer", 2),
            _change(group, "dnsmos", 2),
            _change(group, "si_sdr", 1),
            ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names)),
            f"{np.mean([row.clicks for row in group]):.0f}",
        )
        out.append("| " + " | ".join(cells) + " |")
    if total["harmed"]:
        out += ["", "Harmed:", *(f"* {line}" for line in total["harmed"])]
    if total["misheard"]:
        out += ["", "Whisper alone hears more words wrong in the cleaned sound:"]
        out += [f"* {line}" for line in total["misheard"]]
    return out


def _change(rows: list[SoundRow], measure: str, digits: int) -> str:
    before, after = (np.mean([getattr(row, f"{measure}_{when}") for row in rows]) for when in ("before", "after"))
    return f"{before:.{digits}f} to {after:.{digits}f}"


def write_report(rows: list[SoundRow], folder: Path) -> Path:
    """Write the table (`sound_<date>.md`) and the rows (.json) into a folder; return the page."""
    heading = f"# Speech in noise, before and after cleaning, {today()}"
    return write_dated(folder, f"sound_{today()}", "\n".join([heading, "", *lines(rows), ""]), to_json(rows))

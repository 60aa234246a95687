"""Tables of the model card come from the records of a run."""

import json
from pathlib import Path

from liveavatar.training import card


def test_card_tables_come_from_records() -> None:
    checks = [
        {"name": "edge_jump", "what": "step", "value": 2.03, "limit": 1.25, "goal": 1.1, "sense": "most", "ok": False},
        {"name": "r", "what": "ratio", "value": 1.0, "limit": 0.15, "goal": 0.07, "sense": "near", "ok": True},
    ]
    quality = {"clips": 8, "steps": 4, "dtype": "bfloat16", "device": "cpu", "checks": checks}
    goals = card.goals_table(quality | {"truth": {"edge_jump": 1.015}})
    assert "| step (`edge_jump`) | 2.030 | 1.015 | ≤ 1.25 | ≤ 1.1 | no |" in goals
    assert "| ratio (`r`) | 1 |  | 1 ± 0.15 | 1 ± 0.07 | yes |" in goals
    table = card.measures_table({"truth": {"openness_corr": 0.976}, "dmd@4": {"openness_corr": 0.5, "lag_frames": 0.0}})
    assert "| truth | 0.976 |" in table
    assert "| dmd@4 | 0.500 |" in table
    records = [{"seconds": float(i), "loss": 1.0 / (i + 1)} for i in range(50)] + [{"seconds": 99.0}]
    rows = card.curve_table(records, ("seconds", "loss")).splitlines()
    assert len(rows) == 2 + card.CURVE_ROWS
    assert rows[2].startswith("| 0 |")
    assert rows[-1].startswith("| 49 |")


def test_the_card_of_a_tuned_speech_encoder_says_so(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    out.mkdir()
    rows = [{"step": 1, "seconds": 2.0, "loss": 0.5}, {"step": 9, "seconds": 8.0, "openness": 0.9125, "width": 0.75}]
    (run / "tuning.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card.write_card(run, out, "finetune")
    assert "corrections in" not in (out / card.CARD).read_text()
    (out / "speech.safetensors").write_bytes(bytes(3_500_000))
    card.write_card(run, out, "finetune")
    text = (out / card.CARD).read_text()
    assert "The speech encoder is heard with the corrections in `speech.safetensors`." in text
    assert "| speech.safetensors | 3.5 MB |" in text
    assert (
        "## Course of the tuning\n\n| seconds | step | openness | width |\n|---|---|---|---|\n| 8 | 9 | 0.912 | 0.750 |"
        in text
    )

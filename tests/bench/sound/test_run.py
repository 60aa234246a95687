"""The sound bench counts harm where there is some, and its table says what happened."""

from dataclasses import replace

import numpy as np
import pytest

from liveavatar.bench.sound import run
from liveavatar.bench.sound.run import SoundRow, conditions, load_voices, run_bench, si_sdr, summary

GOOD = SoundRow(
    voice="a", noise="white", level=10, chosen="rnnoise", clicks=0, wer_before=0.2, wer_after=0.1,
    heard_before=0.2, heard_after=0.1,
    dnsmos_before=2.0, dnsmos_after=2.5, si_sdr_before=10.0, si_sdr_after=14.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "harms"),
    [
        pytest.param(GOOD, 0, id="better"),
        pytest.param(replace(GOOD, wer_after=0.209), 0, id="not yet more words wrong"),
        pytest.param(replace(GOOD, wer_after=0.211), 1, id="more words wrong"),
        pytest.param(replace(GOOD, si_sdr_after=9.1), 0, id="not yet distorted"),
        pytest.param(replace(GOOD, si_sdr_after=8.9), 1, id="distorted"),
        pytest.param(replace(GOOD, si_sdr_after=8.9, wer_after=1.0), 2, id="both"),
    ],
)
def test_harm(row: SoundRow, harms: int) -> None:
    assert len(row.harms) == harms
    assert len(summary([row])["harmed"]) == bool(harms)


def test_what_whisper_mishears_is_counted_beside_harm() -> None:
    misheard = replace(GOOD, heard_after=0.3)
    assert misheard.misheard
    assert not misheard.harms
    total = summary([GOOD, misheard, replace(GOOD, heard_after=0.2)])
    assert (total["harmed"], total["misheard"], total["clearer"]) == ([], ["a white 10: 0.20 to 0.30"], 1)


def test_summary() -> None:
    clean = replace(GOOD, level=20, chosen="raw", dnsmos_after=2.0)
    total = summary([GOOD, replace(GOOD, level=0, dnsmos_after=2.1), clean, replace(clean, chosen="mild")])
    assert total["dnsmos_gain_noisy"] == pytest.approx(0.3)
    assert total["kept_clean"] == "1 of 2"


def test_distortion_is_independent_of_scale() -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal(20_000), rng.standard_normal(20_000)
    assert si_sdr(clean, 3 * (clean + 0.1 * noise)) == pytest.approx(20.0, abs=0.3)


def test_the_bench_takes_voices_that_set_no_rule() -> None:
    voices = load_voices()
    assert set(voices) == {"04", "05", "06", "07", "sample"}
    assert not set(voices) & set(run.TUNING)
    assert len(conditions()) == 28
    assert all(6.0 < len(voice) / 16_000 <= 9.0 for voice in voices.values())


@pytest.mark.nightly
def test_a_noisy_voice_is_measured_before_and_after() -> None:
    rows = run_bench({"a": load_voices()["sample"][:64_000]}, [("white", 5.0)])
    assert [(row.voice, row.noise, row.level) for row in rows] == [("a", "white", 5.0)]
    assert rows[0].si_sdr_before == pytest.approx(5.0, abs=0.3)
    assert rows[0].dnsmos_after > rows[0].dnsmos_before + 0.15
    assert rows[0].harms == []

"""Noise of a known strength, and the films of a noisy voice judged against the clean one."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar import config
from liveavatar.bench_quality.noisy import judge_noisy, means, with_noise
from liveavatar.bench_quality.run import Bench
from liveavatar.bench_quality.split import Clip
from liveavatar.engine import Engine
from liveavatar.timing import SAMPLE_RATE


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
def test_noise_has_the_strength_that_was_asked_for(snr_db: float) -> None:
    speech = 0.1 * np.sin(np.arange(3 * SAMPLE_RATE) / 9).astype(np.float32)
    mixed = with_noise(speech, 1, snr_db)
    assert mixed.dtype == np.float32
    assert np.abs(mixed).max() <= 0.95
    part = float(mixed @ speech / (speech @ speech))  # the mix may be scaled down
    noise = mixed / part - speech
    assert 20 * np.log10(speech.std() / noise.std()) == pytest.approx(snr_db, abs=0.3)
    assert not np.array_equal(mixed, with_noise(speech, 2, snr_db))


def test_means_leave_out_what_could_not_be_measured() -> None:
    row = {"sound": "noisy", "sync_error_frames": 1.0, "av_correlation": 0.5, "silent_lip": None, "openness_corr": 0.4}
    found = means([row, row | {"sync_error_frames": None, "openness_corr": 0.6}])
    assert found == {"noisy": {"sync_error_frames": 1.0, "av_correlation": 0.5, "openness_corr": pytest.approx(0.5)}}


@pytest.mark.nightly
def test_cleaning_helps_the_lips_of_a_noisy_voice(stored: list[Clip], tmp_path: Path) -> None:
    bench = Bench(Engine.load(config.MINI_DIR, device="cpu"), stored[:1], tmp_path, lambda _: None)
    found = means(judge_noisy(bench, 4, lambda _: None))
    assert found["noisy"]["openness_corr"] < found["clean"]["openness_corr"]
    assert found["cleaned"]["openness_corr"] > found["noisy"]["openness_corr"]

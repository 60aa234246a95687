"""Noise of a known strength, and the videos of a noisy voice judged against the clean one."""

import numpy as np
import pytest

from liveavatar import paths
from liveavatar.bench.quality.bench import QualityBench
from liveavatar.bench.quality.noisy import judge_noisy, means, with_noise
from liveavatar.load import load_engine
from liveavatar.quality.split import Clip
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


@pytest.fixture(scope="module")
def driven(stored: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Means over the videos of one clip, by the sound that drives them."""
    folder = tmp_path_factory.mktemp("noisy")
    bench = QualityBench(load_engine(paths.MINI_DIR, device="cpu"), stored[:1], folder, lambda _: None)
    return means(judge_noisy(bench, bench.judge_split(4, posed=False), 4, lambda _: None))


@pytest.mark.nightly
def test_noise_costs_openness_but_no_sync_and_cleaning_costs_none_either(driven: dict[str, dict[str, float]]) -> None:
    assert driven["noisy"]["openness_corr"] < driven["clean"]["openness_corr"]
    assert driven["noisy"]["sync_error_frames"] <= 0.5
    assert driven["cleaned"]["sync_error_frames"] <= driven["noisy"]["sync_error_frames"]


@pytest.mark.nightly
def test_cleaning_opens_the_mouth_as_the_clean_voice_would(driven: dict[str, dict[str, float]]) -> None:
    assert driven["cleaned"]["openness_corr"] > driven["noisy"]["openness_corr"]

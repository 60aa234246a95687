"""Every planted sound fault changes the sound; shifts and slips go by whole frames."""

import numpy as np
import pytest

from liveavatar.bench.faults import plan, sound
from liveavatar.timing import SAMPLE_RATE, SAMPLES_PER_FRAME

VOICE = np.random.default_rng(0).laplace(0, 0.05, 64 * SAMPLES_PER_FRAME).astype(np.float32)
OTHER = np.random.default_rng(1).laplace(0, 0.05, 50 * SAMPLES_PER_FRAME).astype(np.float32)


@pytest.mark.parametrize("fault", [fault for fault in plan.faults() if fault.in_sound], ids=str)
def test_a_planted_fault_changes_the_sound(fault: plan.Fault) -> None:
    planted = plan.SOUND[fault.name][0](VOICE, OTHER, fault.strength)
    assert planted.dtype == np.float32
    assert (len(planted) < len(VOICE)) == (fault.name == "sound cut by")
    assert not np.array_equal(planted, VOICE)


def test_sound_is_moved_by_frames() -> None:
    late = sound.shift(VOICE, OTHER, 2)
    assert np.array_equal(late[2 * SAMPLES_PER_FRAME :], VOICE[: -2 * SAMPLES_PER_FRAME])
    early = sound.shift(VOICE, OTHER, -3)
    assert np.array_equal(early[: -3 * SAMPLES_PER_FRAME], VOICE[3 * SAMPLES_PER_FRAME :])
    slipped = sound.slip(VOICE, OTHER, 0.4)
    half = len(VOICE) // 2
    assert np.array_equal(slipped[:half], VOICE[:half])
    assert np.array_equal(slipped[half + 10 * SAMPLES_PER_FRAME :], VOICE[half : -10 * SAMPLES_PER_FRAME])


def test_sound_is_switched_off_where_it_is_loudest() -> None:
    voice = np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE).astype(np.float32) * 0.01
    voice[2 * SAMPLE_RATE : 3 * SAMPLE_RATE] *= 20
    off = sound.switched_off(voice, voice, 1.0)
    assert np.flatnonzero(off == 0)[[0, -1]] == pytest.approx([2 * SAMPLE_RATE, 3 * SAMPLE_RATE - 1], abs=200)
    assert np.array_equal(off[: 2 * SAMPLE_RATE - 200], voice[: 2 * SAMPLE_RATE - 200])

"""Voice activity: from probabilities to segments, and on real speech."""

import numpy as np
import pytest
import torch

from liveavatar.audio import vad
from liveavatar.audio.vad import FRAME, Segment, find_speech, segments_of, speech_probabilities
from liveavatar.errors import InputError
from tests.audio.sounds import noise


def _frames(*runs: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(n, p, np.float32) for n, p in runs])


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        pytest.param([(100, 0.1)], [], id="nobody speaks"),
        pytest.param([(50, 0.1), (50, 0.9), (50, 0.1)], [(50, 100)], id="one stretch"),
        pytest.param([(50, 0.1), (5, 0.9), (50, 0.1)], [], id="too short to be speech"),
        pytest.param([(20, 0.9), (6, 0.1), (20, 0.9)], [(0, 46)], id="short pause is bridged"),
        pytest.param([(20, 0.9), (30, 0.1), (20, 0.9)], [(0, 20), (50, 70)], id="long pause divides"),
        pytest.param([(20, 0.9), (20, 0.4), (20, 0.1)], [(0, 40)], id="doubt goes on, does not start"),
        pytest.param([(40, 0.4), (20, 0.9)], [(40, 60)], id="doubt alone is no speech"),
    ],
)
def test_segments(runs: list[tuple[int, float]], expected: list[tuple[int, int]]) -> None:
    probabilities = _frames(*runs)
    got = segments_of(probabilities, len(probabilities) * FRAME, pad_s=0.0)
    assert [(s.start // FRAME, s.stop // FRAME) for s in got] == expected


def test_padding_stays_inside_and_joins() -> None:
    probabilities = _frames((20, 0.9), (12, 0.1), (20, 0.9))
    assert segments_of(probabilities, 52 * FRAME, pad_s=0.1) == [
        Segment(start=0, stop=20 * FRAME + 1600),
        Segment(start=32 * FRAME - 1600, stop=52 * FRAME),
    ]
    assert segments_of(probabilities, 52 * FRAME, pad_s=0.5) == [Segment(start=0, stop=52 * FRAME)]


def test_finds_speech_between_noise(spoken: np.ndarray) -> None:
    num_threads = torch.get_num_threads()
    track = np.concatenate([noise(2.0, 0.003), spoken, noise(2.0, 0.003)])
    segments = find_speech(track)
    assert torch.get_num_threads() == num_threads
    assert segments
    assert 1.5 * 16_000 < segments[0].start < 3.0 * 16_000
    assert segments[-1].stop < len(track) - 1.5 * 16_000
    assert find_speech(noise(3.0)) == []


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch, spoken: np.ndarray) -> None:
    whole = speech_probabilities(spoken)
    monkeypatch.setattr(vad, "FRAMES_PER_CALL", 7)
    np.testing.assert_allclose(speech_probabilities(spoken), whole, atol=1e-4)
    assert len(whole) == -(-len(spoken) // FRAME)


def test_missing_wheel() -> None:
    with pytest.raises(InputError, match="make setup"):
        vad.wheel_file("no_such_wheel_of_ours", "x.onnx")

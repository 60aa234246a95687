"""Motion is repeatable, silent mouths stay shut in every mood, energy scales the head."""

import numpy as np
import pytest

from liveavatar.training.corpus.head.motion import (
    ENERGIES,
    FOLLOW,
    MOODS,
    POSE_LIMITS,
    TURN_LIMITS,
    Style,
    head_motion,
    mood_weights,
    photo_motion,
    resting_pose,
    speaking_motion,
    spoken_mouth,
    spoken_photo,
    turned_rest,
    turning,
)
from liveavatar.training.corpus.speech.visemes import SHAPES, both_sides, loudness_gain, shape_matrix

NAMES = sorted(
    {n for w in (*SHAPES.values(), *MOODS.values()) for n in both_sides(w)}
    | {f"eye{k}_{s}" for k in ("Blink", "LookUp", "LookDown") for s in "LR"}
)
MATRIX = shape_matrix(NAMES)
EVENTS = np.array([(0.0, 0.4, 0), (0.4, 0.7, 11), (0.7, 0.8, 1), (0.8, 1.2, 9), (1.2, 3.0, 0)], np.float32)
REST = np.array([0.1, -0.05, 0.02])
AUDIO = (0.2 * np.sin(np.arange(48_000) * 0.1)).astype(np.float32)
FRAMES = 75


def move(mood: str = "neutral", energy: str = "natural", seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    style = Style(mood=mood, energy=energy)
    motion = speaking_motion(EVENTS, AUDIO, NAMES, MATRIX, style, REST, np.random.default_rng(seed))
    return motion.expression, motion.head, motion.gaze


@pytest.mark.parametrize("mood", list(MOODS))
def test_silence_shuts_the_mouth_in_every_mood(mood: str) -> None:
    expression, _, _ = move(mood)
    opening = [NAMES.index(n) for n in ("jawOpen", "mouthLowerDown_L", "mouthUpperUp_R", "mouthFunnel")]
    assert np.abs(expression[45:, opening]).max() < 0.01
    assert expression[12:16, NAMES.index("jawOpen")].max() > 0.4


def test_the_mouth_is_not_random() -> None:
    jaw = NAMES.index("jawOpen")
    np.testing.assert_array_equal(move(seed=1)[0][:, jaw], move(seed=2)[0][:, jaw])
    assert not np.array_equal(move(seed=1)[1], move(seed=2)[1])


def test_speech_alone_moves_the_mouth_as_a_person_without_a_mood() -> None:
    alone = spoken_mouth(EVENTS, loudness_gain(AUDIO, FRAMES), NAMES, MATRIX)
    lips = [i for i, n in enumerate(NAMES) if n.startswith(("jaw", "mouth")) and "Smile" not in n]
    np.testing.assert_allclose(alone[:, lips], move()[0][:, lips], atol=1e-6)
    others = [i for i, n in enumerate(NAMES) if n.startswith(("eye", "brow"))]
    assert not alone[:, others].any()
    quiet = spoken_mouth(EVENTS, loudness_gain(0.001 * AUDIO, FRAMES), NAMES, MATRIX)
    jaw, press = NAMES.index("jawOpen"), NAMES.index("mouthPress_L")
    assert quiet[:, jaw].max() < 0.9 * alone[:, jaw].max()
    np.testing.assert_array_equal(quiet[:, press], alone[:, press])


def test_same_seed_same_motion() -> None:
    for a, b in zip(move(seed=3), move(seed=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_energy_scales_the_head() -> None:
    spread = {
        e: np.mean([head_motion(250, ENERGIES[e], REST, np.random.default_rng(s)).std(0).sum() for s in range(20)])
        for e in ("calm", "natural", "lively")
    }
    assert spread["calm"] < 0.6 * spread["natural"] < 0.6 * spread["lively"]


def test_moods_differ() -> None:
    rows = [mood_weights(m, NAMES) for m in MOODS]
    assert all(np.abs(a - b).max() > 0.3 for i, a in enumerate(rows) for b in rows[:i])


def test_photo_is_at_rest() -> None:
    photo = photo_motion(NAMES, REST, np.random.default_rng(5))
    mouth = [i for i, n in enumerate(NAMES) if n.startswith(("mouth", "jaw", "eyeBlink"))]
    assert photo.expression.shape == (1, len(NAMES))
    assert not photo.expression[:, mouth].any()


def test_photo_and_motion_share_a_resting_pose() -> None:
    rests = np.stack([resting_pose(np.random.default_rng(s)) for s in range(40)])
    assert rests.std(0).min() > 0.01
    photos = np.concatenate([photo_motion(NAMES, r, np.random.default_rng(9)).head for r in rests])
    heads = np.stack([head_motion(250, 0.7, r, np.random.default_rng(7)).mean(0) for r in rests])
    assert np.abs(photos - rests).max() < 0.08
    assert np.corrcoef(heads[:, 0], rests[:, 0])[0, 1] > 0.95


def test_heads_turn_within_their_limits_and_mostly_beyond_the_usual_ones() -> None:
    tracks = [turning(72, REST, np.random.default_rng(s)) for s in range(60)]
    widest = np.degrees(np.abs(np.stack(tracks)).max(1))  # [60, 3]
    assert (widest <= np.array(TURN_LIMITS) + 1e-6).all()
    assert ((widest > POSE_LIMITS).any(1)).mean() > 0.7
    assert widest[:, 0].max() > 0.9 * TURN_LIMITS[0]
    assert np.degrees(np.abs(np.diff(tracks, axis=1)).max()) < 6, "smooth: degrees a frame"
    moved = np.stack([np.ptp(t, axis=0).max() for t in tracks])
    assert 0.3 < (moved > 0.05).mean() < 1, "most turn within three seconds, some stay"


def test_turned_rests_are_usual_or_far_away() -> None:
    yaw = np.degrees([turned_rest(np.random.default_rng(s))[0] for s in range(300)])
    assert 0.2 < (np.abs(yaw) > 12).mean() < 0.5
    assert 20 < np.abs(yaw).max() <= 30


def test_turns_are_added_to_a_calmer_sway_and_leave_the_mouth_alone() -> None:
    turns = turning(75, REST, np.random.default_rng(4))
    arguments = (EVENTS, AUDIO, NAMES, MATRIX, Style(mood="neutral", energy="lively"), REST)
    turned, usual = (speaking_motion(*arguments, np.random.default_rng(0), t) for t in (turns, None))
    sway = turned.head - turns - REST
    assert sway.std() < 0.6 * (usual.head - REST).std()
    jaw = NAMES.index("jawOpen")
    np.testing.assert_array_equal(turned.expression[:, jaw], usual.expression[:, jaw])


def test_a_spoken_photo_has_a_frame_s_mouth_open_eyes_and_its_own_pose() -> None:
    style = Style(mood="smiling", energy="natural")
    speaking = speaking_motion(EVENTS, AUDIO, NAMES, MATRIX, style, np.zeros(3), np.random.default_rng(1))
    rest = photo_motion(NAMES, REST, np.random.default_rng(5))
    photos = [spoken_photo(NAMES, rest, speaking, np.random.default_rng(s)) for s in range(30)]
    jaw = NAMES.index("jawOpen")
    jaws = np.array([p.expression[0, jaw] for p in photos])
    assert set(jaws) <= set(speaking.expression[:, jaw])
    assert np.ptp(jaws) > 0.2
    for photo in photos:
        assert np.array_equal(photo.head, rest.head)
        assert photo.expression.shape == rest.expression.shape
        assert not photo.expression[:, [NAMES.index(f"eyeBlink_{s}") for s in "LR"]].any()
    glances = np.stack([p.gaze[0] + FOLLOW * p.head[0, :2] for p in photos])
    all_glances = speaking.gaze + FOLLOW * speaking.head[:, :2]
    assert all(np.abs(all_glances - g).sum(1).min() < 1e-5 for g in glances)

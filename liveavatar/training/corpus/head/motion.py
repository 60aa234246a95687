"""Motion curves of a clip: mouth from visemes; head, gaze, blinks, brows and mood.

*Energy* scales the motion of head and brows; *mood* adds a constant expression of fixed strength, so that a prompt
alone determines it. Nothing in the mouth is random: a model cannot learn motion that the audio does not determine.

Shapes: T frames, K expression shapes.
"""

from dataclasses import dataclass

import numpy as np

from liveavatar.pose.blinks import blinks, saccades
from liveavatar.training.corpus.speech.visemes import FPS, both_sides, loudness_gain, viseme_curves

MOODS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smiling": {"mouthSmile*": 0.42, "cheekSquint*": 0.30, "eyeSquint*": 0.15, "mouthDimple*": 0.15},
    "serious": {"browDown*": 0.45, "mouthFrown*": 0.18, "eyeSquint*": 0.12},
    "surprised": {"browInnerUp*": 0.55, "browOuterUp*": 0.50, "eyeWide*": 0.45},
}
_MOOD_SHARES = (0.45, 0.28, 0.15, 0.12)
ENERGIES = {"calm": 0.35, "natural": 0.7, "lively": 1.3}  # scale of head motion
_ENERGY_SHARES = (0.3, 0.45, 0.25)
_HEAD = (0.10, 0.05, 0.04)  # radians of yaw, pitch, roll at energy 1
_REST = (0.09, 0.05, 0.03)  # radians, spread of the resting pose, around which a head moves
_PHOTO_OFF = 0.25  # of _HEAD, spread of a photo's pose around the resting pose
# Degrees of yaw, pitch, roll from the portrait up to which a network keeps a face whole that learned from such motion
POSE_LIMITS = (17.0, 8.0, 8.0)
_SWAY_HZ = (0.12, 0.27, 0.55)
FOLLOW = 0.8  # share of a head's turn that the eyes compensate, to keep looking at the same point
_FIRM = ("mouthPress_L", "mouthPress_R", "mouthRollLower", "mouthRollUpper")  # closures: the same at any loudness
# Gaze down and up also move the lids: weight 1 at this many radians.
_LID_DOWN, _LID_UP = 0.45, 0.35


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """Mood and energy of one clip."""

    mood: str
    energy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """Expression, head and gaze curves of a clip."""

    expression: np.ndarray  # float32 [T, K]
    head: np.ndarray  # float32 [T, 3] yaw, pitch, roll, radians
    gaze: np.ndarray  # float32 [T, 2] yaw, pitch against the head, radians


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a mood and an energy."""
    return Style(
        mood=str(rng.choice(list(MOODS), p=_MOOD_SHARES)), energy=str(rng.choice(list(ENERGIES), p=_ENERGY_SHARES))
    )


def resting_pose(rng: np.random.Generator) -> np.ndarray:
    """Draw the resting pose of a person's head, shared by photo and motion: radians [3]."""
    return np.clip(rng.normal(size=3), -2, 2) * _REST


def head_motion(num_frames: int, scale: float, rest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth sway about a resting pose, radians [T, 3]."""
    time = np.arange(num_frames) / FPS
    head = np.zeros((num_frames, 3), np.float32)
    for axis, amplitude in enumerate(_HEAD):
        curve = np.full(num_frames, rest[axis] + rng.uniform(-0.3, 0.3) * scale * amplitude)
        for hertz in _SWAY_HZ:
            size = scale * amplitude * rng.uniform(0.2, 0.6)
            curve += size * np.sin(2 * np.pi * hertz * rng.uniform(0.8, 1.25) * time + rng.uniform(0, 2 * np.pi))
        head[:, axis] = curve
    return head


def gaze_motion(head: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw gaze curves that hold the camera through head turns, with saccades away, radians [T, 2]."""
    return (saccades(len(head), rng) - FOLLOW * head[:, :2]).astype(np.float32)


def lid_weights(gaze: np.ndarray, names: list[str]) -> np.ndarray:
    """Compute the expression weights [T, K] of lids following the gaze."""
    weights = np.zeros((len(gaze), len(names)), np.float32)
    for name, value in (("Down", gaze[:, 1] / _LID_DOWN), ("Up", -gaze[:, 1] / _LID_UP)):
        for side in "LR":
            weights[:, names.index(f"eyeLook{name}_{side}")] = np.clip(value, 0, 1)
    return weights


def mood_weights(mood: str, names: list[str]) -> np.ndarray:
    """Build the constant expression [K] of a mood."""
    weights = np.zeros(len(names), np.float32)
    for name, value in both_sides(MOODS[mood]).items():
        weights[names.index(name)] = value
    return weights


def speaking_motion(
    events: np.ndarray,
    audio: np.ndarray,
    names: list[str],
    matrix: np.ndarray,
    style: Style,
    rest: np.ndarray,
    rng: np.random.Generator,
) -> Motion:
    """Draw the motion of a person speaking a stretch of a track.

    Args:
        events: [n, 3] on the clip's clock, see `viseme_curves`.
        audio: the clip's sound, 16 kHz; its length sets the number of frames.
        names: expression shapes.
        matrix: `visemes.shape_matrix(names)`.
        style: mood and energy.
        rest: from `resting_pose`.
        rng: draws everything but the mouth.
    """
    num_frames = len(audio) * FPS // 16_000
    gain = loudness_gain(audio, num_frames)
    mouth = viseme_curves(events, num_frames, matrix)
    loose = np.array([n not in _FIRM for n in names])
    mouth[:, loose] *= gain[:, None]
    expression = mouth + mood_weights(style.mood, names)
    # Smiles and frowns yield while the lips are round.
    rounding = np.clip(mouth[:, names.index("mouthPucker")] + 0.5 * mouth[:, names.index("mouthFunnel")], 0, 1)
    for side in "LR":
        expression[:, names.index(f"mouthSmile_{side}")] *= 1 - 0.6 * rounding
    energy = ENERGIES[style.energy]
    head = head_motion(num_frames, energy, rest, rng)
    accent = (gain - 0.88) / 0.24
    head[:, 1] += 0.018 * energy * (accent - accent.mean())  # nods with the voice
    closed = blinks(num_frames, rng)
    for side in "LR":
        expression[:, names.index(f"browInnerUp_{side}")] += 0.12 * energy * accent
        k = names.index(f"eyeBlink_{side}")
        expression[:, k] = np.maximum(expression[:, k], closed)
    gaze = gaze_motion(head, rng)
    expression += lid_weights(gaze, names)
    return Motion(expression=expression.astype(np.float32), head=head.astype(np.float32), gaze=gaze)


def photo_motion(names: list[str], rest: np.ndarray, rng: np.random.Generator) -> Motion:
    """Draw the motion of the reference photo: one frame at rest, its pose close to the resting one."""
    head = (rest + _PHOTO_OFF * rng.normal(size=3) * _HEAD).astype(np.float32)[None]
    gaze = (-FOLLOW * head[:, :2]).astype(np.float32)
    return Motion(expression=lid_weights(gaze, names), head=head, gaze=gaze)

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
# The same for a network that learned from heads that turn as well (`turning`)
TURN_LIMITS = (35.0, 18.0, 18.0)
_TURN_SHARES = (0.9, 0.6, 0.5)  # of the poses that a head turns to: those that change yaw, pitch, roll
_TURNED_REST = (30.0, 10.0, 8.0)  # degrees up to which the resting pose of half of them is turned
_FURTHEST = (45.0, 25.0, 22.0)  # degrees from the camera
_TURN_SECONDS, _STAY_SECONDS = (0.8, 2.0), (0.4, 3.0)
_TURNING_SWAY = 0.4  # of the usual sway, while a head turns
_TURNING_GLANCES = 2.0  # times the usual saccades
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


def turned_rest(rng: np.random.Generator) -> np.ndarray:
    """Draw the resting pose of a head that turns: half as usual, half turned away from the camera, radians [3]."""
    turned = np.radians(_TURNED_REST) * rng.uniform(-1, 1, 3)
    usual = resting_pose(rng)
    return turned if rng.random() < 0.5 else usual


def turning(num_frames: int, rest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a head that stays in one pose and turns to others, from the first frame on: radians [T, 3] from `rest`."""
    time = np.arange(num_frames) / FPS
    track = np.tile(_turned(rest, rng), (num_frames, 1))
    at = rng.uniform(*_STAY_SECONDS)
    while at < num_frames / FPS:
        lasts = rng.uniform(*_TURN_SECONDS)
        share = np.clip((time - at) / lasts, 0, 1)[:, None]
        track += share * share * (3 - 2 * share) * (_turned(rest, rng) - track)
        at += lasts + rng.uniform(*_STAY_SECONDS)
    return track


def _turned(rest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a pose within `TURN_LIMITS` of the resting pose, radians [3] from it."""
    pose = np.radians(TURN_LIMITS) * rng.uniform(-1, 1, 3) * (rng.random(3) < _TURN_SHARES)
    furthest = np.radians(_FURTHEST)
    return np.clip(rest + pose, -furthest, furthest) - rest


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


def gaze_motion(head: np.ndarray, rng: np.random.Generator, reach: float = 1.0) -> np.ndarray:
    """Draw gaze curves that hold the camera through head turns, with saccades away (times `reach`), radians [T, 2]."""
    return (reach * saccades(len(head), rng) - FOLLOW * head[:, :2]).astype(np.float32)


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


def spoken_mouth(events: np.ndarray, gain: np.ndarray, names: list[str], matrix: np.ndarray) -> np.ndarray:
    """Compute the expression weights [T, K] that speech alone gives a mouth.

    `gain` [T] is from `loudness_gain`; the other arguments are as in `speaking_motion`.
    """
    mouth = viseme_curves(events, len(gain), matrix)
    loose = np.array([n not in _FIRM for n in names])
    mouth[:, loose] *= gain[:, None]
    return mouth


def speaking_motion(
    events: np.ndarray,
    audio: np.ndarray,
    names: list[str],
    matrix: np.ndarray,
    style: Style,
    rest: np.ndarray,
    rng: np.random.Generator,
    turns: np.ndarray | None = None,
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
        turns: from `turning`; None: the head only sways about its resting pose.
    """
    num_frames = len(audio) * FPS // 16_000
    gain = loudness_gain(audio, num_frames)
    mouth = spoken_mouth(events, gain, names, matrix)
    expression = mouth + mood_weights(style.mood, names)
    # Smiles and frowns yield while the lips are round.
    rounding = np.clip(mouth[:, names.index("mouthPucker")] + 0.5 * mouth[:, names.index("mouthFunnel")], 0, 1)
    for side in "LR":
        expression[:, names.index(f"mouthSmile_{side}")] *= 1 - 0.6 * rounding
    energy = ENERGIES[style.energy]
    head = head_motion(num_frames, energy if turns is None else _TURNING_SWAY * energy, rest, rng)
    head += 0 if turns is None else turns
    accent = (gain - 0.88) / 0.24
    head[:, 1] += 0.018 * energy * (accent - accent.mean())  # nods with the voice
    closed = blinks(num_frames, rng)
    for side in "LR":
        expression[:, names.index(f"browInnerUp_{side}")] += 0.12 * energy * accent
        k = names.index(f"eyeBlink_{side}")
        expression[:, k] = np.maximum(expression[:, k], closed)
    gaze = gaze_motion(head, rng, 1.0 if turns is None else _TURNING_GLANCES)
    expression += lid_weights(gaze, names)
    return Motion(expression=expression.astype(np.float32), head=head.astype(np.float32), gaze=gaze)


def photo_motion(names: list[str], rest: np.ndarray, rng: np.random.Generator) -> Motion:
    """Draw the motion of the reference photo: one frame at rest, its pose close to the resting one."""
    head = (rest + _PHOTO_OFF * rng.normal(size=3) * _HEAD).astype(np.float32)[None]
    gaze = (-FOLLOW * head[:, :2]).astype(np.float32)
    return Motion(expression=lid_weights(gaze, names), head=head, gaze=gaze)


def spoken_photo(names: list[str], photo: Motion, speaking: Motion, rng: np.random.Generator) -> Motion:
    """Draw a photo that was taken while the person spoke: a random frame's face and glance, in the photo's pose.

    The eyes stay open.

    Args:
        names: expression shapes.
        photo: from `photo_motion`.
        speaking: the person, saying something else than the clip does.
        rng: draws the frame.
    """
    row = int(rng.integers(len(speaking.head)))
    glance = speaking.gaze[row] + FOLLOW * speaking.head[row, :2]
    gaze = (glance - FOLLOW * photo.head[:, :2]).astype(np.float32)
    kept = np.array([not n.startswith(("eyeBlink", "eyeLook")) for n in names], np.float32)
    return Motion(expression=speaking.expression[row] * kept + lid_weights(gaze, names), head=photo.head, gaze=gaze)

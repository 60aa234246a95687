"""Faults planted in pictures: functions from the frames of a good video (and where its face is) to a faulty one.

Shapes: frames uint8 [T, H, W, 3]. A function may change the number of frames, never the size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Original:
    """Good video and the places of its face."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    face: np.ndarray  # float32 [T, 2], centre of the face (x, y), pixels
    mouth: np.ndarray  # float32 [T, 2], centre of the mouth
    eyes: float  # pixels between the eyes
    other: np.ndarray  # uint8 [H, W, 3], another person's picture of the same size


Planted = Callable[[Original, float], np.ndarray]


def _each(original: Original, change: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    return np.stack([np.clip(change(f, t), 0, 255).astype(np.uint8) for t, f in enumerate(original.frames)])


def _light(original: Original, level_T: np.ndarray) -> np.ndarray:
    return _each(original, lambda f, t: f.astype(np.float32) + level_T[t])


def freeze(original: Original, start: float) -> np.ndarray:
    """Hold the picture from a share of the video on."""
    first = int(start * len(original.frames))
    return original.frames[np.minimum(np.arange(len(original.frames)), first)]


def freeze_with_grain(original: Original, start: float) -> np.ndarray:
    """Hold the picture from a share of the video on, under fresh grain of 3 grey levels on every frame."""
    return noise(Original(freeze(original, start), original.face, original.mouth, original.eyes, original.other), 3)


def stall(original: Original, length: float) -> np.ndarray:
    """Hold the picture for some frames in the middle; then the video goes on where it would have been."""
    order = np.arange(len(original.frames))
    first = len(order) // 2
    order[first : first + int(length)] = first
    return original.frames[order]


def repeat(original: Original, every: float) -> np.ndarray:
    """Repeat the frame before at every n-th frame."""
    order = np.arange(len(original.frames))
    order[int(every) :: int(every)] -= 1
    return original.frames[order]


def insert(original: Original, length: float) -> np.ndarray:
    """Insert repeated frames in the middle, so that all that follows is late."""
    order = np.insert(
        np.arange(len(original.frames)), len(original.frames) // 2, [len(original.frames) // 2] * int(length)
    )
    return original.frames[order]


def shuffle(original: Original, span: float) -> np.ndarray:
    """Shuffle the frames within spans."""
    rng, order = np.random.default_rng(0), np.arange(len(original.frames))
    for start in range(0, len(order), int(span)):
        rng.shuffle(order[start : start + int(span)])
    return original.frames[order]


def backwards(original: Original, _: float) -> np.ndarray:
    """Play the pictures backwards."""
    return original.frames[::-1]


def mouth_stops(original: Original, start: float) -> np.ndarray:
    """Freeze the mouth from a share of the video on, while the head goes on moving."""
    import cv2

    frames, first = original.frames.copy(), int(start * len(original.frames))
    wide, high = int(0.85 * original.eyes), int(0.6 * original.eyes)
    x, y = np.meshgrid(np.arange(-wide, wide + 1) / wide, np.arange(-high, high + 1) / high)
    weight = np.clip(3 * (1 - np.hypot(x, y)), 0, 1)[..., None].astype(np.float32)
    size = (2 * wide + 1, 2 * high + 1)
    held = cv2.getRectSubPix(frames[first], size, tuple(original.mouth[first].tolist())).astype(np.float32)
    for t in range(first, len(frames)):
        left, top = np.round(original.mouth[t]).astype(int) - (wide, high)
        part = frames[t, max(top, 0) : top + size[1], max(left, 0) : left + size[0]]
        if part.shape[:2] == held.shape[:2]:
            part[:] = (weight * held + (1 - weight) * part).astype(np.uint8)
    return frames


def other_person(original: Original, start: float) -> np.ndarray:
    """Show another person's picture from a share of the video on."""
    frames = original.frames.copy()
    frames[int(start * len(frames)) :] = original.other
    return frames


def morph(original: Original, share: float) -> np.ndarray:
    """Blend slowly into another person's picture."""
    ramp = np.linspace(0, share, len(original.frames))
    return _each(original, lambda f, t: (1 - ramp[t]) * f + ramp[t] * original.other)


def flicker(original: Original, level: float) -> np.ndarray:
    """Make every second frame lighter, the others darker."""
    return _light(original, level * (-1.0) ** np.arange(len(original.frames)))


def pulse(original: Original, level: float) -> np.ndarray:
    """Make every tenth frame lighter."""
    return _light(original, level * (np.arange(len(original.frames)) % 10 == 5))


def one_flash(original: Original, level: float) -> np.ndarray:
    """Make one frame in the middle lighter."""
    return _light(original, level * (np.arange(len(original.frames)) == len(original.frames) // 2))


def light_drifts(original: Original, level: float) -> np.ndarray:
    """Let the light rise or fall evenly through the video."""
    return _light(original, np.linspace(0, level, len(original.frames)))


def light_steps(original: Original, level: float) -> np.ndarray:
    """Change the light at every second block of 12 frames."""
    return _light(original, level * (np.arange(len(original.frames)) // 12 % 2))


def key_frames(original: Original, strength: float) -> np.ndarray:
    """Jump at every 12th frame and settle, as a coder's key frames do: a blur that is gone at once."""
    import cv2

    return _each(original, lambda f, t: cv2.GaussianBlur(f, (0, 0), strength) if t % 12 == 6 else f)


def block_jump(original: Original, pixels: float) -> np.ndarray:
    """Shift every second block of 12 frames sideways."""
    return _each(original, lambda f, t: np.roll(f, int(pixels) * (t // 12 % 2), 1))


def jitter(original: Original, pixels: float) -> np.ndarray:
    """Shift every frame at random."""
    rng = np.random.default_rng(1)
    shifts = rng.integers(-int(pixels), int(pixels) + 1, (len(original.frames), 2))
    return _each(original, lambda f, t: np.roll(f, shifts[t], (0, 1)))


def tint(original: Original, level: float) -> np.ndarray:
    """Add green."""
    return _each(original, lambda f, t: f + np.array([0, level, 0], np.float32))


def magenta(original: Original, level: float) -> np.ndarray:
    """Add red and blue."""
    return _each(original, lambda f, t: f + np.array([level, 0, level], np.float32))


def tint_grows(original: Original, level: float) -> np.ndarray:
    """Add more and more green."""
    ramp = np.linspace(0, level, len(original.frames))
    return _each(original, lambda f, t: f + np.array([0, ramp[t], 0], np.float32))


def grey(original: Original, share: float) -> np.ndarray:
    """Take away a share of the colour."""
    return _each(original, lambda f, t: share * f.mean(-1, keepdims=True) + (1 - share) * f)


def swap_channels(original: Original, _: float) -> np.ndarray:
    """Swap red and blue."""
    return original.frames[..., ::-1]


def mosaic(original: Original, side: float) -> np.ndarray:
    """Make squares of one colour."""
    import cv2

    height, width = original.frames.shape[1:3]

    def squares(frame: np.ndarray, _: int) -> np.ndarray:
        small = cv2.resize(frame, (width // int(side), height // int(side)), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST))

    return _each(original, squares)


def blotches(original: Original, level: float) -> np.ndarray:
    """Put two squares on the face, lighter and darker, in new places on every frame."""
    rng, side = np.random.default_rng(2), max(4, round(0.22 * original.eyes))
    frames = original.frames.astype(np.float32)
    for t, sign in ((t, s) for t in range(len(frames)) for s in (-1, 1)):
        x, y = np.round(original.face[t] + rng.uniform(-0.6, 0.6, 2) * original.eyes).astype(int)
        frames[t, max(y, 0) : y + side, max(x, 0) : x + side] += sign * level
    return np.clip(frames, 0, 255).astype(np.uint8)


def patches(original: Original, level: float) -> np.ndarray:
    """Put a darker patch on each cheek."""
    return _patched(original, level, 0)


def late_patches(original: Original, level: float) -> np.ndarray:
    """Put a darker patch on each cheek in the last third."""
    return _patched(original, level, len(original.frames) * 2 // 3)


def _patched(original: Original, level: float, start: int) -> np.ndarray:
    frames, radius = original.frames.astype(np.float32), 0.22 * original.eyes
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    for t, side in ((t, s) for t in range(start, len(frames)) for s in (-1, 1)):
        place = original.face[t] + np.array([side * 0.55, 0.1]) * original.eyes
        frames[t][np.hypot(x - place[0], y - place[1]) < radius] -= level
    return np.clip(frames, 0, 255).astype(np.uint8)


def blur(original: Original, sigma: float) -> np.ndarray:
    """Blur every frame."""
    return _blurred(original, np.full(len(original.frames), sigma))


def blur_grows(original: Original, sigma: float) -> np.ndarray:
    """Blur more and more."""
    return _blurred(original, np.linspace(0, sigma, len(original.frames)))


def late_blur(original: Original, sigma: float) -> np.ndarray:
    """Blur the last quarter."""
    late = np.arange(len(original.frames)) >= len(original.frames) * 3 // 4
    return _blurred(original, np.where(late, sigma, 0))


def _blurred(original: Original, sigma_T: np.ndarray) -> np.ndarray:
    import cv2

    return _each(original, lambda f, t: cv2.GaussianBlur(f, (0, 0), sigma_T[t]) if sigma_T[t] > 0.1 else f)


def noise(original: Original, level: float) -> np.ndarray:
    """Add grain."""
    rng = np.random.default_rng(3)
    return _each(original, lambda f, t: f + level * rng.standard_normal(f.shape))


def black(original: Original, count: float) -> np.ndarray:
    """Make some frames in the middle black."""
    frames = original.frames.copy()
    frames[len(frames) // 2 :][: int(count)] = 0
    return frames


def upside_down(original: Original, _: float) -> np.ndarray:
    """Turn the picture upside down."""
    return original.frames[:, ::-1]


def cover_side(original: Original, start: float) -> np.ndarray:
    """Cover everything left of the nose with grey from a share of the video on."""
    frames = original.frames.copy()
    for t in range(int(start * len(frames)), len(frames)):
        frames[t, :, : max(0, int(original.face[t, 0]))] = 110
    return frames


def cover_mouth(original: Original, start: float) -> np.ndarray:
    """Cover everything under the nose with grey from a share of the video on."""
    frames = original.frames.copy()
    for t in range(int(start * len(frames)), len(frames)):
        frames[t, max(0, int(original.face[t, 1] + 0.25 * original.eyes)) :] = 110
    return frames


def face_leaves(original: Original, start: float) -> np.ndarray:
    """Move the picture sideways, out of view, from a share of the video on."""
    frames = original.frames.copy()
    for t in range(int(start * len(frames)), len(frames)):
        frames[t] = 128
    return frames


def stretch(original: Original, factor: float) -> np.ndarray:
    """Stretch the picture in width."""
    return _warped(original, np.array([[factor, 0.0], [0.0, 1.0]]))


def tilt(original: Original, degrees: float) -> np.ndarray:
    """Rotate the picture."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _warped(original, np.array([[cos, -sin], [sin, cos]]))


def _warped(original: Original, matrix: np.ndarray) -> np.ndarray:
    import cv2

    height, width = original.frames.shape[1:3]
    middle = np.array([width / 2, height / 2])
    place = np.c_[matrix, middle - matrix @ middle]
    return _each(original, lambda f, t: cv2.warpAffine(f, place, (width, height), flags=cv2.INTER_LINEAR))


def letterbox(original: Original, share: float) -> np.ndarray:
    """Put black bars at the top and the bottom."""
    frames, depth = original.frames.copy(), int(share * original.frames.shape[1])
    frames[:, :depth] = frames[:, -depth:] = 0
    return frames

"""Motion measures: flicker, motion, jerk, block edges, repeats, gaps.

Inputs are curves read from the video: `change` is the mean absolute difference of a frame to the one before
(0 to 255, NaN for the first), `anchors` the centres of four groups of landmarks that move with the skull, in eye
distances (NaN rows where no face was seen).
"""

import numpy as np

from liveavatar.face.landmarks import Face
from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.timing import BLOCK_FRAMES, FPS

# Groups are averaged to tame landmark noise, which a third derivative would blow up 4.5 times.
ANCHOR_GROUPS = (
    (10, 67, 109, 151, 297, 338, 9, 108, 337),  # forehead
    (168, 6, 197, 195, 8, 122, 351),  # bridge of the nose
    (33, 133, 130, 243, 226, 31, 127, 162),  # right eye's corners and temple
    (263, 362, 359, 463, 446, 261, 356, 389),  # left eye's corners and temple
)
REPEATED = 0.02  # mean absolute difference, of 255, under which a frame repeats the one before
BLANK_LUMINANCE = 6.0  # mean luma, of 255
BLANK_CONTRAST = 3.0  # standard deviation of luma: a frame of one colour shows nothing
USUAL_UNREST, MOST_UNREST = 0.7, 2.0  # % / frame**3: of the groups against one another; see `jerk_index`
UNREST_GAIN = 1.3  # jerk that comes of one unit of that unrest: the groups' noise is partly common to them
GAP = 1.5  # frame periods between time stamps that count as a gap


def anchors(face: Face, unit: float) -> np.ndarray:
    """Compute the centres of the skull's landmark groups, float64 [4, 2], in eye distances of `unit` pixels."""
    return np.stack([face.points[list(group)].mean(0) for group in ANCHOR_GROUPS]).astype(np.float64) / unit


def flicker(change_T: np.ndarray) -> float:
    """Compute `flicker`: 1 - mean absolute frame difference / 255.

    Unit: none; 1 = still, real talking heads about 0.98 to 0.995. Source: VBench's temporal flickering
    (arXiv 2311.17982), on the whole video.

    Raises:
        MeasureUnavailable: for a video of one frame.
    """
    seen = change_T[np.isfinite(change_T)]
    if not len(seen):
        raise MeasureUnavailable("the video has fewer than two frames", Absence.NOT_APPLICABLE)
    return float(1 - seen.mean() / 255)


def motion_energy(speed_T: np.ndarray) -> float:
    """Compute `motion_energy`: mean speed of all face landmarks.

    Mean over frames and points of |p[t] - p[t-1]| / eye distance * fps. Unit: eye distances a second. A still
    picture gives the tracker's noise, under 0.02. Source: own definition.

    Raises:
        MeasureUnavailable: when a face was seen in fewer than two neighbouring frames.
    """
    seen = speed_T[np.isfinite(speed_T)]
    if not len(seen):
        raise MeasureUnavailable("no face was found in the video", Absence.FAULT)
    return float(seen.mean())


def jerk_index(anchors_TG2: np.ndarray) -> float:
    """Compute `jerk_index`: third difference of the head's landmarks, in per cent of the eye distance per frame cubed.

    100 * mean over frames and groups of |a[t+3] - 3 a[t+2] + 3 a[t+1] - a[t]|, where a are the anchors in eye
    distances. Unit: % / frame**3. A smooth 1 Hz nod of 0.1 eye distances gives 0.1; a jitter of 1 % from frame to
    frame gives about 4. Head landmarks, because no hand model is part of the product. Source: own definition.

    A skull's groups hardly tremble against one another (0.05 in ground truth, by its true landmarks). What is read of
    that is noise of the landmarks: 0.4 to 0.7 as a rule, over 1.5 on faces that they follow badly. Where it is more
    than usual, what it adds to the jerk is taken off; at most so much as noise can be.

    Raises:
        MeasureUnavailable: when no face was seen in four frames in a row.
    """
    third = np.diff(anchors_TG2, n=3, axis=0)
    third = 100 * third[np.isfinite(third).all((1, 2))]
    if not len(third):
        raise MeasureUnavailable("no face was followed over four frames in a row", Absence.FAULT)
    jerk = float(np.linalg.norm(third, axis=-1).mean())
    unrest = float(np.linalg.norm(third - third.mean(1, keepdims=True), axis=-1).mean())
    excess = max(0.0, min(unrest, MOST_UNREST) ** 2 - USUAL_UNREST**2)
    return float(np.sqrt(max(0.0, jerk**2 - UNREST_GAIN**2 * excess)))


def edge_jump(change_T: np.ndarray) -> float:
    """Compute `edge_jump`: change of the picture at block borders over the change inside blocks.

    Median over block borders of change[border] / median of the 11 changes inside the block that ends there.
    Unit: ratio; 1 = borders cannot be seen.

    Raises:
        MeasureUnavailable: for videos of one block, or when nothing moves.
    """
    ratios = []
    for border in range(BLOCK_FRAMES, len(change_T), BLOCK_FRAMES):
        inside = np.nanmedian(change_T[border - BLOCK_FRAMES + 1 : border])
        if inside > REPEATED:
            ratios.append(change_T[border] / inside)
    if not ratios:
        raise MeasureUnavailable(
            "the video has no two moving blocks whose border could be seen", Absence.NOT_APPLICABLE
        )
    return float(np.median(ratios))


def mean_edge_jump(change: np.ndarray, period: int = BLOCK_FRAMES, key_frames: int | None = None) -> float:
    """Compute the mean frame step into each new block over the mean step of all frames; 1 = edges cannot be seen.

    For evaluation against ground truth; the verdict's `edge_jump` is the median, which ignores single cuts.

    Args:
        change: step from the frame before, [..., T]; NaN for the first.
        period: frames of a block.
        key_frames: distance of the coder's key frames, which jump by themselves; steps into them are left out.

    Returns:
        The ratio; NaN for videos of one block.
    """
    times = np.arange(change.shape[-1])
    counted = (times > 0) if key_frames is None else (times % key_frames > 0)
    counted &= np.isfinite(change).reshape(-1, len(times)).all(0)
    edges = counted & (times % period == 0)
    if not edges.any():
        return float("nan")
    return float(change[..., edges].mean() / max(change[..., counted].mean(), 1e-9))


def repeated_frames(change_T: np.ndarray) -> int:
    """Count the longest run of frames that repeat the one before (mean absolute difference under 0.02 of 255)."""
    longest = run = 0
    for change in change_T:
        run = run + 1 if change < REPEATED else 0
        longest = max(longest, run)
    return longest


def blank_frames(luminance_T: np.ndarray, contrast_T: np.ndarray) -> np.ndarray:
    """Mark blank frames: black (mean luma under 6) or of one colour (deviation under 3). bool [T]."""
    return (luminance_T < BLANK_LUMINANCE) | (contrast_T < BLANK_CONTRAST)


def dropped_frames(seconds_T: np.ndarray, blank_T: np.ndarray, expected: int | None = None, fps: float = FPS) -> int:
    """Count `dropped_frames`: missing and blank pictures.

    Gaps in the time stamps (in frame periods) + frames that are blank + frames missing at the end. Unit: frames.

    Args:
        seconds_T: presentation times.
        blank_T: from `blank_frames`.
        expected: frames the video should have; None when unknown.
        fps: nominal rate.
    """
    steps = np.diff(seconds_T) * fps
    gaps = int(np.round(steps[steps > GAP] - 1).sum())
    missing = 0 if expected is None else max(0, expected - len(seconds_T) - gaps)
    return gaps + int(blank_T.sum()) + missing

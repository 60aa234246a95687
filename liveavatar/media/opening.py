"""Opening of a video: the quarter second in which it departs from the user's picture.

A model's first latents are soft, and players show the first frame as the thumbnail.
"""

import numpy as np

OPENING = 6  # frames
FLOW_SIGMA = 2.0  # pixels


def opening_share(index: int) -> float:
    """Return how far frame `index` of a video has departed from the picture, from 0 to 1 in `OPENING` frames."""
    part = min(1.0, index / OPENING)
    return part * part * (3 - 2 * part)


def morphed(picture: np.ndarray, frame: np.ndarray, share: float) -> np.ndarray:
    """Make a frame between a picture and a later frame: both are moved to meet, then mixed.

    Args:
        picture: uint8 [h, w, 3]; a share of 0 gives it.
        frame: uint8 [h, w, 3]; a share of 1 gives it.
        share: of the way.
    """
    import cv2

    height, width = picture.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setUseSpatialPropagation(False)  # it would make the result depend on the number of threads
    greys = [cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (frame, picture)]
    moved = []
    for rgb, pair, way in ((picture, greys, share), (frame, greys[::-1], 1 - share)):
        motion = cv2.GaussianBlur(
            flow.calc(pair[0], pair[1], np.zeros((height, width, 2), np.float32)), (0, 0), FLOW_SIGMA
        )
        places = grid + motion * np.float32(way)
        rim = cv2.BORDER_REPLICATE
        moved.append(cv2.remap(rgb, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=rim))
    result: np.ndarray = cv2.addWeighted(moved[0], 1 - share, moved[1], share, 0)
    return result

"""Paste: the face that a model rendered, moved into the user's own picture at its size.

A model's frame is small and repaints the person. `FacePaste` therefore measures how the frame differs from the model's
own *still* of the portrait: dense flow says where each point came from, and the user's picture is moved by it, with
all its detail; a change of light is added, smooth. Only lips and shut lids, which moved pixels cannot show, are taken
from the frame. Outside a soft mask around the head every pixel is that of the picture.
"""

import math

import numpy as np

from liveavatar.media.lips import Lips, shut_lips
from liveavatar.media.sizes import Box
from liveavatar.media.speaking_parts import SpeakingParts

# Of the masks, in eye distances from the middle of the eyes
MASK_DOWN = 0.35  # centre
MASK_RADII = (1.6, 2.5)  # across, down: within them the mask is 1
MASK_EDGE = 0.9  # beyond, it falls to 0 over this distance
FACE_DOWN, FACE_RADII, FACE_EDGE = 0.45, (0.9, 1.3), 0.5  # likewise of the face without hair
MOUTH_DOWN, MOUTH_RADII = 1.08, (0.75, 0.6)
# In pixels of the model's frame
BORDER = 10  # over which the mask falls at the frame's border
REACH = 2  # of the interpolation
COARSE = 4  # of light, which is measured on a smaller frame
LIGHT_SIGMA = 6.0  # a change wider than this is one of light
TONE_SIGMA = 8.0  # of the difference between the picture's colours and the still's
FLOW_SIGMA = 2.0
CHANGE = (
    1.0,
    4.0,
)  # grey levels, mean over the lips: up to the first they are the picture's, from the second the frame's
LEAST = 0.02  # weight of lips and lids in a change of light


class FacePaste:
    """Composer of video frames from a model's frames; it has no memory from frame to frame."""

    def __init__(
        self,
        canvas: np.ndarray,
        box: Box,
        still: np.ndarray,
        eyes: tuple[float, float, float],
        lips: Lips | None = None,
    ) -> None:
        """Prepare what all frames share.

        Args:
            canvas: uint8 [H, W, 3], the user's picture at the video's size.
            box: left, top, right, bottom of the model's picture in the canvas, pixels.
            still: uint8 [h, w, 3], the model's own rendering of the portrait at rest.
            eyes: x, y of their middle and their distance, pixels of the model's picture.
            lips: parted ones of the canvas, which the model's picture has shut.
        """
        import cv2

        height, width = still.shape[:2]
        self.canvas, self.zoom = canvas, (box[2] - box[0]) / width
        self.frame_mask = head_mask(height, width, eyes)
        self.parts = SpeakingParts(still, mouth_mask(height, width, eyes))
        rows, columns = (np.flatnonzero(self.frame_mask.any(axis)) for axis in (1, 0))
        self.left = max(0, math.floor(box[0] + (columns[0] - REACH) * self.zoom))
        self.top = max(0, math.floor(box[1] + (rows[0] - REACH) * self.zoom))
        right = min(canvas.shape[1], math.ceil(box[0] + (columns[-1] + 1 + REACH) * self.zoom))
        bottom = min(canvas.shape[0], math.ceil(box[1] + (rows[-1] + 1 + REACH) * self.zoom))
        part = np.ascontiguousarray(canvas[self.top : bottom, self.left : right])
        self.open_part = None if lips is None else part
        self.lips = None if lips is None else lips.placed(1.0, -self.left, -self.top)
        self.part = part if self.lips is None else shut_lips(part, self.lips)
        self.size = right - self.left, bottom - self.top
        self.to_frame = np.array(
            [
                [1 / self.zoom, 0, (self.left + 0.5 - box[0]) / self.zoom - 0.5],
                [0, 1 / self.zoom, (self.top + 0.5 - box[1]) / self.zoom - 0.5],
            ]
        )  # pixels of the part to those of the model's frame
        mask = self._enlarged(self.frame_mask, cv2.INTER_CUBIC)
        self.around = part * (1 - mask[..., None])
        self.grid, self.frame_grid = _grid(*self.size), _grid(width, height)
        self.coarse_still = _coarse(still)
        self.face_mask = face_mask(height, width, eyes)[..., None]
        self.coarse_face = _coarse(self.face_mask)[..., None]
        self.coarse_grid = _grid(*self.coarse_still.shape[1::-1])
        spoken = canvas if lips is None else shut_lips(canvas, lips)
        self.tone = cv2.GaussianBlur(self._shown(spoken, box, (width, height)) - still, (0, 0), TONE_SIGMA)
        self.still_grey = cv2.cvtColor(still, cv2.COLOR_RGB2GRAY)
        self.no_flow = np.zeros((height, width, 2), np.float32)
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.flow.setUseSpatialPropagation(False)  # it would make the result depend on the number of threads

    def _enlarged(self, values: np.ndarray, how: int) -> np.ndarray:
        """Sample values of the model's frame at the pixels of the part."""
        import cv2

        return cv2.warpAffine(
            values, self.to_frame, self.size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )

    def _shown(self, canvas: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
        """Show the video's picture as the model's frame has it, float32 [h, w, 3]."""
        import cv2

        to_film = np.array(
            [
                [self.zoom, 0, box[0] + (self.zoom - 1) / 2],
                [0, self.zoom, box[1] + (self.zoom - 1) / 2],
            ]
        )
        smooth = canvas if self.zoom <= 1 else cv2.GaussianBlur(canvas, (0, 0), self.zoom / 2)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.float32(1) * cv2.warpAffine(smooth, to_film, size, flags=how, borderMode=cv2.BORDER_REPLICATE)

    def compose(self, frame: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Compose one frame of the video, uint8 [H, W, 3].

        Args:
            frame: the model's, uint8 [h, w, 3].
            share: of what differs from the picture; 0 gives the picture.
        """
        import cv2

        flow = self.flow.calc(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), self.still_grey, self.no_flow.copy())
        flow = cv2.GaussianBlur(flow, (0, 0), FLOW_SIGMA) * self.frame_mask[..., None]
        added, kept = self._weighed(frame, flow, share)
        places = self.grid + self._enlarged(flow, cv2.INTER_LINEAR) * np.float32(share * self.zoom)
        moved = _moved(self._picture(share), places, cv2.INTER_CUBIC)
        enlarged = self._enlarged(np.dstack([added, kept]), cv2.INTER_CUBIC)
        weight = np.repeat(enlarged[..., 3:], 3, axis=2)
        mixed = cv2.add(cv2.multiply(moved, weight, dtype=cv2.CV_32F), enlarged[..., :3])
        result = self.canvas.copy()
        rows, columns = slice(self.top, self.top + self.size[1]), slice(self.left, self.left + self.size[0])
        result[rows, columns] = cv2.add(mixed, self.around, dtype=cv2.CV_8U)
        return result

    def _picture(self, share: float) -> np.ndarray:
        """Return the picture that is moved: parted lips shut as the video begins."""
        if self.open_part is None or self.lips is None or share >= 1:
            return self.part
        return shut_lips(self.open_part, self.lips, share)

    def _weighed(self, frame: np.ndarray, flow: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Divide a frame into what is added to the moved picture, and the share of the picture that is kept.

        Returns:
            float32 [h, w, 3] and [h, w], both times the mask.
        """
        import cv2

        height, width = self.frame_mask.shape
        lips, lids = self.parts.look(frame, self.frame_grid + flow)
        small = (width // COARSE, height // COARSE)
        coarse_flow = cv2.resize(flow, small, interpolation=cv2.INTER_AREA) / np.float32(COARSE)
        change = _coarse(frame) - _moved(self.coarse_still, self.coarse_grid + coarse_flow, cv2.INTER_LINEAR)
        coarse_lips = cv2.resize(lips, small, interpolation=cv2.INTER_AREA)
        weight = 1 - (1 - LEAST) * np.maximum(coarse_lips, cv2.resize(lids, small, interpolation=cv2.INTER_AREA))
        drift = self._drift(change, weight)
        change -= self.coarse_face * drift
        differing = float((np.abs(change).max(-1) * coarse_lips).sum() / max(float(coarse_lips.sum()), 1e-6))
        weighed = np.dstack([change * weight[..., None], weight])
        weighed = cv2.GaussianBlur(weighed, (0, 0), LIGHT_SIGMA / COARSE)
        light = cv2.resize(np.asarray(weighed[..., :3] / weighed[..., 3:] * share, np.float32), (width, height))
        speaking = np.clip((differing - CHANGE[0]) / (CHANGE[1] - CHANGE[0]), 0, 1)
        taken = (np.maximum(lips * np.float32(speaking), lids) * np.float32(share))[..., None]
        added = light + taken * (frame - self.face_mask * drift + self.tone - light)
        return added * self.frame_mask[..., None], (1 - taken[..., 0]) * self.frame_mask

    def _drift(self, change: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Measure how the face's mean colour departs from the still's, which is the model's doing: float32 [3].

        Args:
            change: of light, [h / COARSE, w / COARSE, 3].
            weight: of its pixels, [h / COARSE, w / COARSE].
        """
        share = weight[..., None] * self.coarse_face
        drift: np.ndarray = (change * share).sum((0, 1)) / max(float(share.sum()), 1e-6)
        return drift.astype(np.float32)


def _coarse(rgb: np.ndarray) -> np.ndarray:
    """Shrink a frame or mask, [h, w] or [h, w, 3], to float32 of a size less by `COARSE`."""
    import cv2

    small = (rgb.shape[1] // COARSE, rgb.shape[0] // COARSE)
    return np.float32(1) * cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)


def _moved(pixels: np.ndarray, places: np.ndarray, how: int) -> np.ndarray:
    """Sample pixels at `places`, x and y in float32 [h, w, 2]."""
    import cv2

    return cv2.remap(pixels, places[..., 0], places[..., 1], how, borderMode=cv2.BORDER_REPLICATE)


def head_mask(height: int, width: int, eyes: tuple[float, float, float]) -> np.ndarray:
    """Draw the soft mask around the head, float32 [height, width] from 0 to 1; 0 at the border of the frame."""
    mask = _ellipse(height, width, eyes, MASK_DOWN, MASK_RADII, MASK_EDGE)
    edge = [np.minimum(np.arange(side), np.arange(side)[::-1]) / BORDER for side in (height, width)]
    return (mask * _smooth(edge[0])[:, None] * _smooth(edge[1])[None]).astype(np.float32)


def face_mask(height: int, width: int, eyes: tuple[float, float, float]) -> np.ndarray:
    """Draw the soft mask of the face without hair, float32 [height, width] from 0 to 1."""
    return _ellipse(height, width, eyes, FACE_DOWN, FACE_RADII, FACE_EDGE).astype(np.float32)


def _ellipse(
    height: int, width: int, eyes: tuple[float, float, float], centre: float, radii: tuple[float, float], edge: float
) -> np.ndarray:
    """Draw an ellipse, 1 within `radii` around a point below the eyes and falling to 0 over `edge`; eye distances."""
    x, y, distance = eyes
    across = (np.arange(width, dtype=np.float32) + 0.5 - x) / distance
    down = (np.arange(height, dtype=np.float32) + 0.5 - y) / distance - centre
    reach = np.hypot(across[None] / radii[0], down[:, None] / radii[1])
    beyond: np.ndarray = (reach - 1) * min(radii) / edge
    return 1 - _smooth(beyond)


def mouth_mask(height: int, width: int, eyes: tuple[float, float, float]) -> np.ndarray:
    """Draw where the mouth lies, float32 [height, width] from 0 to 1."""
    x, y, distance = eyes
    across = (np.arange(width, dtype=np.float32) + 0.5 - x) / distance / MOUTH_RADII[0]
    down = ((np.arange(height, dtype=np.float32) + 0.5 - y) / distance - MOUTH_DOWN) / MOUTH_RADII[1]
    return _smooth(2 * (1.5 - np.hypot(across[None], down[:, None]))).astype(np.float32)


def _grid(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def _smooth(values: np.ndarray) -> np.ndarray:
    clipped = np.clip(values, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)

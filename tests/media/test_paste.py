"""Paste: nothing outside the mask changes, motion and a changed mouth arrive in the picture, one thread or several."""

import cv2
import numpy as np
import pytest

from liveavatar.media.lips import Lips, shut_lips
from liveavatar.media.opening import OPENING, opening_share
from liveavatar.media.paste import FacePaste, head_mask

EYES = (128.0, 137.0, 57.0)
WIDTH, HEIGHT = 256, 384


def texture(height: int, width: int, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(3).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.clip(120 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


STILL = texture(HEIGHT, WIDTH, 6)
FILM = cv2.resize(STILL, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
BOX = (0.0, 0.0, 2.0 * WIDTH, 2.0 * HEIGHT)
MASK = cv2.resize(head_mask(HEIGHT, WIDTH, EYES), (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
FACE = (slice(200, 400), slice(180, 330))  # of the film


def moved(pixels: int) -> np.ndarray:
    return np.roll(STILL, pixels, axis=1)


def test_a_still_face_leaves_the_picture_as_it_is() -> None:
    made = FacePaste(FILM, BOX, STILL, EYES).compose(STILL)
    assert np.abs(made.astype(int) - FILM).max() <= 1


def test_a_film_opens_with_the_picture_and_departs_from_it() -> None:
    paste, frame = FacePaste(FILM, BOX, STILL, EYES), 255 - moved(3)
    away = [np.abs(paste.compose(frame, opening_share(t)).astype(int) - FILM).mean() for t in range(OPENING + 2)]
    assert away[0] < 0.5
    assert np.all(np.diff(away[: OPENING + 1]) > 0)
    assert away[OPENING] == away[OPENING + 1] == np.abs(paste.compose(frame).astype(int) - FILM).mean()


def test_parted_lips_of_the_picture_shut_as_the_video_opens() -> None:
    x, y, distance = (2 * value for value in EYES)
    across = np.linspace(-0.3, 0.3, 11)
    edges = [
        tuple((x + distance * u, y + distance * (1.05 + side * (0.09 - u**2))) for u in across) for side in (-0.5, 0.5)
    ]
    lips = Lips(edges[0], edges[1], distance)
    paste = FacePaste(FILM, BOX, STILL, EYES, lips)
    np.testing.assert_array_equal(paste.compose(STILL, 0.0), FILM)
    np.testing.assert_allclose(paste.compose(STILL), shut_lips(FILM, lips), atol=1)
    half = np.abs(paste.compose(STILL, 0.5).astype(int) - FILM).mean()
    assert 0.2 < half / np.abs(paste.compose(STILL).astype(int) - FILM).mean() < 0.95


@pytest.mark.parametrize("frame", [moved(3), 255 - STILL], ids=["moved", "another picture"])
@pytest.mark.parametrize(
    "box", [BOX, (-60.0, -20.0, 452.0, 748.0), (200.0, 200.0, 328.0, 392.0)], ids=["whole", "beyond", "small"]
)
def test_outside_the_mask_every_pixel_is_the_picture_s(frame: np.ndarray, box: tuple[float, ...]) -> None:
    left, top, right, bottom = box
    made = FacePaste(FILM, (left, top, right, bottom), STILL, EYES).compose(frame)
    zoom = (right - left) / WIDTH
    y, x = np.mgrid[: FILM.shape[0], : FILM.shape[1]]
    places = [((values + 0.5 - start) / zoom - 0.5).astype(np.float32) for values, start in ((x, left), (y, top))]
    mask = cv2.remap(head_mask(HEIGHT, WIDTH, EYES), *places, cv2.INTER_NEAREST, borderValue=0)
    outside = cv2.dilate(mask, np.ones((9, 9))) == 0
    assert outside.mean() > 0.02
    np.testing.assert_array_equal(made[outside], FILM[outside])
    assert (made != FILM).any()


def test_the_picture_follows_the_motion_of_the_face() -> None:
    made = FacePaste(FILM, BOX, STILL, EYES).compose(moved(3))[FACE].astype(int)
    followed = np.abs(made - np.roll(FILM, 6, axis=1)[FACE]).mean()
    assert followed < 0.25 * np.abs(made - FILM[FACE]).mean()


def test_the_face_keeps_its_mean_colour_and_takes_a_shade() -> None:
    tinted = np.clip(STILL + np.array([14.0, -9.0, 6.0]), 0, 255)
    shade = np.linspace(-12, 12, WIDTH)[None, :, None]
    made = FacePaste(FILM, BOX, STILL, EYES).compose(np.clip(tinted + shade, 0, 255).astype(np.uint8)).astype(int)
    change = (made - FILM)[FACE].mean(0)
    assert np.abs(change.mean(0)).max() < 2, "the tint"
    assert (change[-30:] - change[:30]).mean() > 4, "the shade from left to right"


def test_detail_of_the_picture_stays_and_a_new_mouth_comes_from_the_frame() -> None:
    detail = np.random.default_rng(1).integers(-12, 13, FILM.shape)
    film = np.clip(FILM.astype(int) + detail, 0, 255).astype(np.uint8)
    frame = STILL.copy()
    x, y, distance = EYES
    cv2.ellipse(frame, (round(x), round(y + 1.1 * distance)), (16, 8), 0, 0, 360, (20, 0, 0), -1)
    made = FacePaste(film, BOX, STILL, EYES).compose(frame)
    cheek = (slice(290, 360), slice(150, 200))
    assert np.abs(made[cheek].astype(int) - film[cheek]).mean() < 3
    assert made[round(2 * (y + 1.1 * distance)), round(2 * x)].max() < 60


def test_the_number_of_threads_changes_no_bit() -> None:
    threads = cv2.getNumThreads()
    made = []
    try:
        for count in (1, 2, 4):
            cv2.setNumThreads(count)
            made.append(FacePaste(FILM, BOX, STILL, EYES).compose(moved(2)))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])

"""Opening of a video: it begins with the picture, and on the way to a frame no contour is seen twice."""

import cv2
import numpy as np

from liveavatar.media.opening import OPENING, morphed, opening_share

CENTRES = (44, 52)  # of a disc in the picture and in the frame, pixels


def disc(x: int) -> np.ndarray:
    noise = np.random.default_rng(2).normal(size=(96, 96))
    ground = 170 + 40 * cv2.GaussianBlur(noise, (0, 0), 4)
    rgb = np.repeat(ground[..., None], 3, 2).clip(0, 255).astype(np.uint8)
    cv2.circle(rgb, (x, 48), 20, (40, 40, 40), -1)
    return cv2.GaussianBlur(rgb, (0, 0), 1)


def test_shares_go_from_the_picture_to_the_frame() -> None:
    shares = [opening_share(t) for t in range(OPENING + 2)]
    assert (shares[0], shares[OPENING], shares[OPENING + 1]) == (0, 1, 1)
    assert np.all(np.diff(shares[: OPENING + 1]) > 0)


def test_the_ends_are_the_picture_and_the_frame() -> None:
    picture, frame = (disc(x) for x in CENTRES)
    np.testing.assert_array_equal(morphed(picture, frame, 0.0), picture)
    np.testing.assert_array_equal(morphed(picture, frame, 1.0), frame)


def test_half_way_a_moved_thing_is_seen_once_and_half_way() -> None:
    picture, frame = (disc(x) for x in CENTRES)
    row = morphed(picture, frame, 0.5)[48, :, 0].astype(int)
    mixed = (picture[48, :, 0].astype(int) + frame[48, :, 0]) // 2
    dark, grey = (row < 80).sum(), ((row > 80) & (row < 130)).sum()
    assert abs(int(np.flatnonzero(row < 80).mean()) - np.mean(CENTRES)) <= 1
    assert dark > (mixed < 80).sum()
    assert grey < ((mixed > 80) & (mixed < 130)).sum()


def test_the_number_of_threads_changes_no_bit() -> None:
    threads, made = cv2.getNumThreads(), []
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            made.append(morphed(disc(44), disc(52), 0.3))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(made[0], made[1])

"""Profiles made of numbers of primary colours are those that colour management knows."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from liveavatar.media.colour_profile import profile_of_primaries


def test_display_p3() -> None:
    profile = profile_of_primaries(12, 13)
    assert profile is not None
    wide = Image.new("RGB", (1, 1), (200, 100, 50))
    shown = ImageCms.profileToProfile(
        wide, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert shown is not None
    np.testing.assert_allclose(shown.getpixel((0, 0)), (215, 93, 31), atol=1)


@pytest.mark.parametrize("primaries", [9, 12])
@pytest.mark.parametrize("transfer", [1, 13])
def test_grey_stays(primaries: int, transfer: int) -> None:
    profile = profile_of_primaries(primaries, transfer)
    assert profile is not None
    grey = Image.new("RGB", (1, 1), (100, 100, 100))
    shown = ImageCms.profileToProfile(
        grey, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert shown is not None
    np.testing.assert_allclose(shown.getpixel((0, 0)), 100, atol=1)


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (2, 2), (9, 16), (9, 18)])
def test_ordinary_and_hdr_colours_need_none(primaries: int, transfer: int) -> None:
    assert profile_of_primaries(primaries, transfer) is None

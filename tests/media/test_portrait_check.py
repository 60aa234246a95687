"""Portrait check: each doubt about a portrait has its line, and a good one has none."""

import cv2
import numpy as np
import pytest
from PIL import Image

from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.errors import InputError
from liveavatar.face.landmarks import FaceTracker
from liveavatar.media.framing import MODEL, Framing
from liveavatar.media.picture import read_picture
from liveavatar.media.portrait_check import MAY_NOT, WILL, WILL_NOT, JudgedPortrait, judge_portrait
from liveavatar.paths import REPO_ROOT

SAMPLE = read_picture(REPO_ROOT / "data" / "samples" / "portrait.png")
TIGHT = np.ascontiguousarray(SAMPLE[130:400, 110:380])


def judged(rgb: np.ndarray, **asked: object) -> JudgedPortrait:
    return judge_portrait(rgb, Framing(**asked), MINI)  # type: ignore[arg-type]


def small(factor: int) -> np.ndarray:
    height, width = SAMPLE.shape[:2]
    reduced = np.asarray(Image.fromarray(SAMPLE).resize((width // factor, height // factor)))
    return np.pad(reduced, ((40, 40), (40, 40), (0, 0)), mode="edge")


@pytest.mark.parametrize(
    ("rgb", "asked", "verdict", "says"),
    [
        pytest.param(SAMPLE, {}, WILL, "", id="sample"),
        pytest.param(TIGHT, {}, WILL, "", id="tight, with room"),
        pytest.param(TIGHT, {"framing": MODEL}, WILL_NOT, "--framing portrait", id="tight, without room"),
        pytest.param(small(7), {"framing": MODEL}, WILL_NOT, "the face is small in the picture (0.", id="far"),
        pytest.param(np.full((300, 300, 3), 90, np.uint8), {}, WILL_NOT, "no face is found", id="no face"),
        pytest.param(small(6), {}, MAY_NOT, "the face is small", id="small"),
    ],
)
def test_verdicts(rgb: np.ndarray, asked: dict[str, object], verdict: str, says: str) -> None:
    check = judged(rgb, **asked).check
    assert check is not None
    assert check.verdict == verdict, check
    assert says in check.line
    assert check.line.startswith(f"the portrait {verdict}")


def test_a_doubtful_portrait_is_refused_with_its_reason() -> None:
    check = judged(TIGHT, framing=MODEL).check
    assert check is not None
    with pytest.raises(InputError, match="--image: the portrait will not speak"):
        check.require()
    good = judged(SAMPLE).check
    assert good is not None
    good.require()


def test_parted_lips_are_shut_in_what_the_model_is_given() -> None:
    parted = SAMPLE.copy()
    cv2.ellipse(parted, (261, 405), (33, 8), 0, 0, 360, (250, 245, 240), -1)
    for asked in ({}, {"framing": MODEL}):
        made = judged(parted, **asked)
        assert made.check is not None
        assert made.check.openness is not None
        assert made.check.openness > 0.04
        assert "the lips are parted, and are shut before it speaks" in made.check.line
        face = FaceTracker().find(made.picture)
        assert face is not None
        assert face.openness < 0.015
    kept = judged(parted).framed
    assert kept is not None
    assert kept.lips is not None
    assert not kept.is_whole, "the video begins with the parted lips"
    shut = judged(SAMPLE).framed
    assert shut is not None
    assert shut.lips is None


def test_the_second_face_can_be_chosen() -> None:
    both = np.concatenate([SAMPLE, np.pad(SAMPLE[::2, ::2], ((0, 384), (0, 0), (0, 0)), mode="edge")], axis=1)
    first, second = (judged(both, face=number).framed for number in (1, 2))
    assert first is not None
    assert second is not None
    assert first.box[0] < 512 <= second.box[0] + 60
    with pytest.raises(InputError, match="--face 3"):
        judged(both, face=3)


def test_the_14b_takes_any_picture() -> None:
    made = judge_portrait(SAMPLE, Framing(), LIVE_AVATAR_14B)
    assert (made.check, made.framed) == (None, None)

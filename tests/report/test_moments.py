"""Worst moments: each fault is found where it is and named; a blink is none."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from liveavatar.quality import sync
from liveavatar.report.moments import MOST, moments_of_checks, without_blinks, worst_moments
from tests.puppet import babble

LENGTH = 300  # frames


def good() -> pd.DataFrame:
    """Make the table of a video without a fault, with three blinks."""
    audio, openness = babble(LENGTH / 25, seed=1)
    speech = sync.Speech.of(audio, LENGTH)
    rng = np.random.default_rng(0)
    frames = pd.DataFrame(
        {
            "frame": np.arange(LENGTH),
            "face_found": True,
            "openness": openness[:LENGTH],
            "envelope": speech.envelope_T,
            "vowel_envelope": speech.vowels_T,
            "silence": sync.silence_mask(speech.envelope_T),
            "identity": np.where(np.arange(LENGTH) % 5 == 0, 0.95, np.nan),
            "sharpness_ratio": 0.97 + 0.02 * rng.standard_normal(LENGTH),
            "change": np.r_[np.nan, 1.0 + 0.3 * rng.random(LENGTH - 1)],
        }
    )
    for at in (40, 120, 220):
        blink = slice(at, at + 8)
        frames.loc[at : at + 8, "sharpness_ratio"] = 0.45
        frames.loc[at : at + 8, "change"] = 2.2
        frames.loc[frames["identity"].notna() & frames["frame"].isin(range(LENGTH)[blink]), "identity"] = 0.6
    return frames


def test_blinks_are_no_faults() -> None:
    assert worst_moments(good()) == []
    assert without_blinks(good()["sharpness_ratio"].to_numpy()).min() > 0.9


def lose_face(frames: pd.DataFrame) -> None:
    frames.loc[100:124, "face_found"] = False


def change_person(frames: pd.DataFrame) -> None:
    frames.loc[frames["identity"].notna() & frames["frame"].between(100, 180), "identity"] = 0.4


def soften(frames: pd.DataFrame) -> None:
    frames.loc[100:180, "sharpness_ratio"] = 0.5


def roughen(frames: pd.DataFrame) -> None:
    frames.loc[100:180, "sharpness_ratio"] = 2.0


def jump(frames: pd.DataFrame) -> None:
    frames.loc[140, "change"] = 20.0


def stand(frames: pd.DataFrame) -> None:
    frames.loc[130:155, "change"] = 0.0


def delay(frames: pd.DataFrame) -> None:
    frames["openness"] = np.roll(frames["openness"], 6)


@pytest.mark.parametrize(
    ("spoil", "said", "between"),
    [
        pytest.param(lose_face, "no face is seen for 1.0 s", (100, 124), id="no face"),
        pytest.param(change_person, "the face looks less like the portrait (40 %)", (100, 180), id="another person"),
        pytest.param(soften, "the face is soft (50 % of the portrait's detail)", (100, 180), id="soft"),
        pytest.param(roughen, "the face is noisy (200 % of the portrait's detail)", (100, 180), id="noisy"),
        pytest.param(jump, "the picture jumps", (140, 140), id="jump"),
        pytest.param(stand, "the picture stands still for 1.0 s", (130, 155), id="still"),
        pytest.param(delay, "the lips are 6 frames late", (0, LENGTH), id="late lips"),
    ],
)
def test_a_fault_is_found_and_named(spoil: Callable[[pd.DataFrame], None], said: str, between: tuple[int, int]) -> None:
    frames = good()
    spoil(frames)
    found = worst_moments(frames)
    assert {moment.label for moment in found} == {said}
    assert all(between[0] <= moment.frame <= between[1] for moment in found)
    assert all(moment.seconds == moment.frame / 25 for moment in found)


def test_an_open_mouth_in_a_pause_is_found() -> None:
    frames = good()
    frames["silence"] = False
    frames.loc[200:240, "silence"] = True
    frames.loc[200:240, "openness"] = 0.2
    labels = {moment.label for moment in worst_moments(frames) if 200 <= moment.frame <= 240}
    assert "the mouth is open although nothing is said" in labels


def test_the_worst_are_shown_in_the_order_of_time() -> None:
    frames = good()
    for at in range(20, 290, 25):
        frames.loc[at, "change"] = 15.0 + at / 10
    found = worst_moments(frames)
    assert [moment.frame for moment in found] == [145, 170, 195, 220, 245, 270][-MOST:]


def test_a_table_with_little_in_it_has_no_moments() -> None:
    assert worst_moments(pd.DataFrame({"frame": [0, 1]})) == []


def test_a_check_that_did_not_pass_is_shown_at_its_second() -> None:
    checks = [
        {"name": "luma_pulse", "status": "failed", "value": 40.0},
        {"name": "spots", "status": "passed", "value": 10.0},
        {"name": "flicker", "status": "failed", "value": 0.5},
    ]
    placed = moments_of_checks(checks, {"luma_pulse": 2.0, "spots": 1.0})
    assert [(m.frame, m.label) for m in placed] == [(50, "the light jumps by 40 grey levels for a frame")]
    assert placed[0] in worst_moments(good(), placed)
    assert worst_moments(good()[:50], placed) == [], "a second beyond the table"

"""Changing a word of the prompt changes the measure of what it says, in videos of the embedded model."""

import numpy as np
import pytest

from liveavatar import paths
from liveavatar.bench.quality.faces import FaceCurves
from liveavatar.bench.quality.prompts import PAIRS, Words, brightness, corner_warmth, liveliness, try_words, warmth
from liveavatar.bench.quality.videos import RenderedScene, make_scene
from liveavatar.engine.engine import Engine
from liveavatar.face.landmarks import FaceTracker
from liveavatar.load import load_engine
from liveavatar.prompt.check import check_prompt
from liveavatar.quality.split import Clip
from liveavatar.timing import BLOCK_FRAMES, SAMPLES_PER_FRAME


@pytest.fixture(scope="module")
def scene(stored: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, RenderedScene]:
    engine = load_engine(paths.MINI_DIR, device="cpu")
    samples = max(w.blocks for w in PAIRS) * BLOCK_FRAMES * SAMPLES_PER_FRAME
    clip = stored[1]
    return engine, make_scene(tmp_path_factory.mktemp("words"), clip.photo(), clip.speech()[:samples], "", engine)


@pytest.mark.nightly
@pytest.mark.parametrize("words", [pytest.param(w, id=w.name) for w in PAIRS])
def test_a_word_changes_the_picture(words: Words, scene: tuple[Engine, RenderedScene]) -> None:
    effect = try_words(*scene, words, FaceTracker())
    assert effect.seen, effect


def test_pairs_differ_in_one_phrase() -> None:
    for words in PAIRS:
        first, second = words.first.split(", "), words.second.split(", ")
        assert sum(a != b for a, b in zip(first, second, strict=True)) == 1
        assert 0 < words.least < words.true
        assert check_prompt(words.first).score > 0.2


def test_measures_see_what_they_are_named_after() -> None:
    nobody = FaceCurves(*(np.full(4, np.nan) for _ in range(4)), np.full((4, 3), np.nan))
    red = np.zeros((4, 40, 40, 3), np.uint8)
    red[..., 0] = 90
    assert warmth(red, nobody) == 90
    assert brightness(red, nobody) == 30
    red[:, 10:, 10:30] = [0, 0, 255]  # the person
    assert corner_warmth(red, nobody) == 90
    head = np.radians(np.stack([np.sin(np.arange(300) / 5)] * 3, 1))
    still, lively = (FaceCurves(*(np.zeros(300),) * 4, k * head) for k in (1, 4))
    assert liveliness(red, lively) - liveliness(red, still) == pytest.approx(2, abs=0.01)

"""Fixtures: the evaluation split of the repository, and one short clip cut from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from liveavatar.quality.split import Clip, load_split, write_clip, write_index
from liveavatar.timing import SAMPLES_PER_FRAME

FRAMES = 36


@pytest.fixture(scope="session")
def stored() -> list[Clip]:
    """The split of the repository."""
    return load_split()


@pytest.fixture(scope="session")
def short(stored: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a split whose only clip is the middle of the first stored one."""
    folder = tmp_path_factory.mktemp("split")
    clip, start = stored[0], 72
    labels = clip.labels()
    part = slice(start, start + FRAMES)
    truth = {
        "landmarks": np.concatenate([labels.landmarks[part], labels.photo_landmarks[None]]),
        "head": np.concatenate([labels.head[part], labels.photo_head[None]]),
        "expression": np.concatenate([labels.expression[part], labels.expression[:1]]),
        "eyes": np.concatenate([labels.eyes[part], np.zeros((1, 3))]),
    }
    frames = np.concatenate([clip.frames()[part], clip.photo()[None]])
    speech = clip.speech()[start * SAMPLES_PER_FRAME : (start + FRAMES) * SAMPLES_PER_FRAME]
    info = replace(clip.info, num_frames=FRAMES)
    write_index(folder, [replace(info, film_psnr=write_clip(folder, info, frames, speech, truth))])
    return folder

"""The quality stage: its tables are whole or absent."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import wavfile

from liveavatar.errors import CapacityError
from liveavatar.quality.suites import Verdict
from tasks import quality
from tasks.enhance import CLEANED
from tasks.ingest import PORTRAIT
from tasks.render import BLOCKS, VIDEO
from tasks.store.store import Entry, Store, Values

FRAMES = pd.DataFrame({"frame": np.arange(500), "openness": np.linspace(0, 1, 500)})
TIMES = pd.DataFrame({"block": np.arange(40), "wall_ms": np.linspace(9, 10, 40)})


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Entry, Entry, Entry]:
    """What the stage reads; the measuring itself is not at issue here and gives two tables."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    measured = SimpleNamespace(metrics={}, reasons={}, worst_seconds={}, frames=FRAMES, blocks=TIMES, video={})
    monkeypatch.setattr("liveavatar.quality.evaluate.evaluate_video", lambda *_, **__: measured)
    monkeypatch.setattr("liveavatar.quality.suites.judge", lambda _, **__: Verdict("passed", ()))

    def render(folder: Path) -> Values:
        (folder / VIDEO).write_bytes(b"a film")
        (folder / BLOCKS).write_text("[]")
        return {"collapse": None}

    def speak(folder: Path) -> Values:
        wavfile.write(folder / CLEANED, 16_000, np.zeros(16_000, np.float32))
        return {"verdict": {}}

    def draw(folder: Path) -> Values:
        Image.new("RGB", (16, 16)).save(folder / PORTRAIT)
        return {}

    makers: tuple[tuple[str, Callable[[Path], Values]], ...] = (("render", render), ("enhance", speak), ("face", draw))
    rendered, sound, face = (Store().build(kind, "k" * 8, make) for kind, make in makers)
    return rendered, sound, face


@pytest.mark.parametrize(
    ("table", "share"),
    [
        pytest.param(0, 0.5, id="half of the frames' table fits"),
        pytest.param(0, 0.0, id="nothing fits"),
        pytest.param(1, 0.5, id="half of the blocks' table fits"),
        pytest.param(1, 1.0, id="the last bytes do not fit"),
    ],
)
def test_a_full_disk_leaves_no_half_table(
    table: int, share: float, entries: tuple[Entry, Entry, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = pd.DataFrame.to_parquet, iter(range(2))

    def to_parquet(self: pd.DataFrame, path: Path, **named: object) -> None:
        whole(self, path, **named)
        if next(calls) == table:
            os.truncate(path, int(share * path.stat().st_size))
            raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    with monkeypatch.context() as full:
        full.setattr(pd.DataFrame, "to_parquet", to_parquet)
        with pytest.raises(CapacityError, match=r"disk is full.*free some space") as refused:
            quality.judge.fn(*entries)
    assert refused.value.exit_code == 3
    root = Store().root
    assert not list(root.glob("quality/*/*"))
    assert not list(root.glob("building/*"))
    made = quality.judge.fn(*entries)
    assert not made.hit
    pd.testing.assert_frame_equal(pd.read_parquet(made.path(quality.FRAMES_TABLE)), FRAMES)
    pd.testing.assert_frame_equal(pd.read_parquet(made.path(quality.BLOCKS_TABLE)), TIMES)
    assert quality.judge.fn(*entries).hit

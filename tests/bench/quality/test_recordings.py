"""Natural recordings are judged by their sound."""

from pathlib import Path

import pytest

from liveavatar import paths
from liveavatar.engine.engine import Engine
from liveavatar.errors import InputError
from liveavatar.load import load_engine
from liveavatar.quality.split import load_split
from liveavatar.timing import SAMPLE_RATE


def _no_engine() -> Engine:
    """Refusals come before the engine is touched."""
    return Engine.__new__(Engine)


def test_a_folder_without_sound_is_refused(tmp_path: Path) -> None:
    from liveavatar.bench.quality.recordings import judge_recordings

    clips = load_split()
    with pytest.raises(InputError, match="no such folder"):
        judge_recordings(_no_engine(), tmp_path / "nowhere", clips, 1, tmp_path, print)
    with pytest.raises(InputError, match="holds no sound"):
        judge_recordings(_no_engine(), tmp_path, clips, 1, tmp_path, print)


@pytest.mark.nightly
def test_recordings_are_judged_by_their_sound(short: Path, tmp_path: Path) -> None:
    import soundfile

    from liveavatar.bench.quality.recordings import judge_recordings

    clips = load_split(short)
    folder = tmp_path / "voices"
    folder.mkdir()
    soundfile.write(folder / "a.wav", load_split()[0].speech()[: 2 * SAMPLE_RATE], SAMPLE_RATE)
    engine = load_engine(paths.MINI_DIR, device="cpu")
    rows = judge_recordings(engine, folder, clips, 1, tmp_path / "work", lambda _: None)
    assert [(r["recording"], r["portrait"]) for r in rows] == [("a.wav", "clip 00")]
    assert rows[0]["motion_energy"] > 0
    assert rows[0]["lip_sync"] is not None or rows[0]["reasons"]["lip_sync"]

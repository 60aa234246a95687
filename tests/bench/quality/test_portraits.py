"""A folder of portraits is framed, rendered and measured, one row a picture."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from liveavatar import paths
from liveavatar.bench.quality import portraits, videos
from liveavatar.bench.quality.portraits import PortraitOptions, find_portraits, run_portraits
from liveavatar.bench.quality.videos import RenderedScene, Video
from liveavatar.checkpoints.directory import read_config
from liveavatar.errors import InputError
from liveavatar.media.film import FilmWriter
from liveavatar.timing import SAMPLE_RATE

PORTRAIT = paths.DATA / "samples" / "portrait.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sample portrait, whole and as a tight square."""
    folder = tmp_path / "people"
    folder.mkdir()
    picture = Image.open(PORTRAIT).convert("RGB").resize((256, 384))
    picture.save(folder / "whole.png")
    picture.crop((50, 50, 206, 206)).save(folder / "square.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_pictures_are_listed_by_name_or_refused(folder: Path, tmp_path: Path) -> None:
    assert [p.name for p in find_portraits(folder)] == ["square.png", "whole.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        find_portraits(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        find_portraits(tmp_path / "nowhere")


def test_a_damaged_picture_is_refused_before_anything_is_rendered(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a\.png"):
        run_portraits(PortraitOptions(model_dir=paths.MINI_DIR, portraits=folder))


@pytest.mark.nightly
def test_every_picture_gets_a_row_and_a_film_of_its_framing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes: list[RenderedScene] = []

    def still(_: object, scene: RenderedScene, steps: int) -> Video:
        scenes.append(scene)
        picture = scene.photo if scene.canvas is None else np.asarray(Image.open(scene.canvas.path))
        video = scene.folder / f"steps{steps}.mp4"
        with FilmWriter(video, size=(picture.shape[1], picture.shape[0]), audio=scene.sound) as writer:
            writer.write(np.repeat(picture[None], 100, 0))
            writer.close()
        return Video(video, ms_per_frame=50.0)

    def unchanged(samples: np.ndarray, *_: object) -> SimpleNamespace:
        return SimpleNamespace(audio=samples[: 4 * SAMPLE_RATE], words=())

    engine = SimpleNamespace(config=read_config(paths.MINI_DIR), device="cpu", dtype="torch.bfloat16", model_dir=None)
    monkeypatch.setattr(portraits, "load_engine", lambda _: engine)
    monkeypatch.setattr(videos, "write_features", lambda *_: 100)
    monkeypatch.setattr(portraits, "render_scene", still)
    monkeypatch.setattr(portraits, "enhance", unchanged)
    out = tmp_path / "out"
    result = run_portraits(PortraitOptions(model_dir=paths.MINI_DIR, portraits=folder, out=out))
    json.dumps(result, allow_nan=False)
    rows = {row["picture"]: row for row in result["portraits"]}
    assert {name: row["size"] for name, row in rows.items()} == {"square.png": "156*156", "whole.png": "256*384"}
    assert [scene.canvas is not None for scene in scenes] == [True, False]
    assert all(scene.photo.shape == (384, 256, 3) for scene in scenes), "the model's picture"
    assert (result["speaking"], result["worst"], rows["whole.png"]["fps"]) == (0, "square.png", 20)
    assert rows["whole.png"]["note"] == "the mouth does not move"
    assert rows["whole.png"]["identity_min"] > 0.95
    assert all((out / f"sheet_{name}.png").is_file() for name in rows)
    assert (out / "portraits.json").is_file()


@pytest.mark.nightly
def test_a_portrait_is_rendered_and_pasted(folder: Path, tmp_path: Path) -> None:
    (folder / "whole.png").unlink()
    result = run_portraits(PortraitOptions(model_dir=paths.MINI_DIR, portraits=folder, out=tmp_path / "out"))
    (row,) = result["portraits"]
    assert row["av_offset_frames"] == 0
    assert row["bilabial_gap"] < row["openness_range"]
    assert row["identity_min"] > 0.7
    assert row["fps"] > 0

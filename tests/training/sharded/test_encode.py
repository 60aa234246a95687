"""Videos with sound become clips that the distillation reads, frame by frame where they were."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from liveavatar.checkpoints.directory import read_config
from liveavatar.media.ffmpeg import Frame, ffmpeg_binary
from liveavatar.training.runtime import TrainRank
from liveavatar.training.sharded import encode
from liveavatar.training.sharded.windows import ClipFiles
from tests.released import make_released

CPU = torch.device("cpu")
ALONE = TrainRank(0, 1, CPU)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_released(tmp_path_factory.mktemp("released"))


def film(path: Path, seconds: float = 1.2, sound: bool = True) -> None:
    """A test picture of 96x80 at 30 fps, and a tone."""
    tone = ["-f", "lavfi", "-i", "sine=frequency=300:sample_rate=16000"] if sound else []
    picture = ["-f", "lavfi", "-i", "testsrc=size=96x80:rate=30"]
    command = [ffmpeg_binary(), "-v", "error", *picture, *tone, "-t", str(seconds), "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True, timeout=60)


def test_a_folder_of_videos_becomes_clips(model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    videos, out = tmp_path / "videos", tmp_path / "clips"
    videos.mkdir()
    film(videos / "a.mp4")
    (videos / "a.txt").write_text("a calm woman in warm light\n")
    film(videos / "silent.mp4", sound=False)
    film(videos / "short.mp4", seconds=0.3)
    words = ["--model", str(model_dir), "--videos", str(videos), "--out", str(out), "--size", "64*64"]
    encode.main(words)
    assert sorted(path.name for path in out.iterdir()) == ["a.safetensors"]
    assert "silent.mp4 has no sound" in caplog.text
    assert "short.mp4 has 8 frames at 25 fps" in caplog.text
    clip, cfg = load_file(out / "a.safetensors"), read_config(model_dir)
    dit = cfg.dit
    assert clip["latents"].shape == (dit.in_dim, 6, 8, 8)
    assert clip["reference"].shape == (dit.in_dim, 1, 8, 8)
    assert clip["features"].shape == (dit.audio_layers, dit.audio_dim, 24)
    assert clip["text"].shape[1] == dit.text_dim
    assert all(bool(t.isfinite().all()) for t in clip.values())
    window = ClipFiles(out, cfg, 2, ALONE, torch.Generator().manual_seed(0)).sample(1)
    assert torch.equal(window.latents[0], clip["latents"].float())
    before = (out / "a.safetensors").stat().st_mtime_ns
    encode.main(words)
    assert (out / "a.safetensors").stat().st_mtime_ns == before


def test_a_folder_without_videos_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        encode.main(["--model", "m", "--videos", str(tmp_path), "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "holds none of .mp4" in caplog.text


def pictures(rate: float, count: int) -> Iterator[Frame]:
    for i in range(count):
        yield Frame(index=i, seconds=i / rate, rgb=np.full((1, 1, 3), i, np.uint8))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param(25.0, [0, 1, 2, 3, 4, 5], id="as it is"),
        pytest.param(50.0, [0, 2, 4, 6, 8, 10], id="every other"),
        pytest.param(12.5, [0, 0, 1, 1, 2, 2], id="each twice"),
    ],
)
def test_pictures_follow_at_25_a_second(rate: float, expected: list[int]) -> None:
    taken = [int(rgb[0, 0, 0]) for rgb in encode.at_rate(pictures(rate, 40), 6)]
    assert len(taken) == 6
    assert max(abs(t - e) for t, e in zip(taken, expected, strict=True)) <= 1
    if rate == 25:
        assert taken == expected
        assert [int(rgb[0, 0, 0]) for rgb in encode.at_rate(pictures(rate, 4), 9)] == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(80, 96), (200, 70), (64, 128)])
def test_the_middle_is_cut_out(shape: tuple[int, int]) -> None:
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4] = 255
    picture = encode.fitted(rgb, (128, 64))
    assert picture.shape == (3, 64, 128)
    assert float(picture[:, 28:36, 60:68].min()) > 0.999
    assert float(picture.min()) >= -1

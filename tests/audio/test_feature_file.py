"""Features on disk: any slice equals the whole, and a foreign file is refused."""

from pathlib import Path

import pytest
import torch

from liveavatar.audio.feature_file import CHUNK_FRAMES, FeatureFile, save_features
from liveavatar.errors import InputError


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        pytest.param(0, 12, id="start"),
        pytest.param(CHUNK_FRAMES - 5, CHUNK_FRAMES + 7, id="across a chunk"),
        pytest.param(1990, 2000, id="end"),
        pytest.param(1995, 2100, id="past the end"),
        pytest.param(3, 3 + 2 * CHUNK_FRAMES, id="longer than a chunk"),
    ],
)
def test_slice_equals_whole(tmp_path: Path, start: int, stop: int) -> None:
    features = torch.randn(2, 3, 2000)
    save_features(tmp_path / "f.pt", features, fps=25)
    file = FeatureFile(tmp_path / "f.pt")
    assert file.shape == (2, 3, 2000)
    _ = file[500:700]
    assert torch.equal(file[start:stop], features[:, :, start:stop])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"not a torch file", id="text"),
        pytest.param(b"PK\x03\x04 broken", id="zip"),
        pytest.param(b"\x80\x02}q\x00X\xff\xff", id="a cut pickle"),
        pytest.param({"a": 1}, id="another archive"),
        pytest.param([1, 2], id="list"),
        pytest.param(lambda: torch.zeros(3), id="bare tensor"),
        pytest.param({"features": [0.5, 0.5]}, id="features are a list"),
        pytest.param(lambda: {"features": torch.zeros(9)}, id="one dimension"),
        pytest.param(lambda: {"features": torch.zeros(5, 768, 0)}, id="no frames"),
        pytest.param(lambda: {"features": torch.zeros(5, 768, 12, dtype=torch.int64)}, id="integers"),
    ],
)
def test_foreign_file_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "features.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content() if callable(content) else content, path)
    with pytest.raises(InputError, match="is no features file") as caught:
        FeatureFile(path)
    assert "\n" not in str(caught.value)

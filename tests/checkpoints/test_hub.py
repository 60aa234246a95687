"""Fetching: which files, the room for them, going on after a cut, damage on the way and later, no network."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from liveavatar.checkpoints import hub
from liveavatar.checkpoints.checksums import ListedFile, verify
from liveavatar.checkpoints.hub import PUBLISHED, HuggingFace, Source
from liveavatar.errors import CapacityError, CheckpointError, InputError

CONTENT = {
    "config.json": b"{}",
    "diffusion_pytorch_model-00001-of-00001.safetensors": b"weights" * 9,
    "speech/model.safetensors": b"speech",
    "speech/pytorch_model.bin": b"the same as a pickle",
    "README.md": b"words",
}
SOURCE = Source(
    repository="somebody/model",
    folder="base",
    patterns=("config.json", "diffusion_pytorch_model*", "speech/model.safetensors", "speech/pytorch_model.bin"),
    instead=(("speech/model.safetensors", "speech/pytorch_model.bin"),),
)
NEEDED = {"config.json", "diffusion_pytorch_model-00001-of-00001.safetensors", "speech/model.safetensors"}


class Shelf:
    """A hub in memory that notes what it was asked for."""

    def __init__(self, damage: str | None = None) -> None:
        self.damage, self.asked = damage, []  # type: ignore[var-annotated]

    def files(self, repository: str) -> list[ListedFile]:
        return [
            ListedFile(path=p, size=len(c), sha256=hashlib.sha256(c).hexdigest() if len(c) > 2 else None)
            for p, c in CONTENT.items()
        ]

    def download(self, repository: str, paths: list[str], target: Path) -> None:
        self.asked += paths
        for path in paths:
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(CONTENT[path][::-1] if path == self.damage else CONTENT[path])


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


def test_only_what_is_needed_is_fetched_and_kept(tmp_path: Path) -> None:
    shelf = Shelf()
    assert {
        f.relative_to(tmp_path / "m" / "base").as_posix() for f in hub.fetch(tmp_path / "m", [SOURCE], shelf)
    } == NEEDED
    assert set(shelf.asked) == NEEDED
    hub.fetch(tmp_path / "m", [SOURCE], shelf)
    assert len(shelf.asked) == len(NEEDED), "whole files are not fetched again"


def test_a_cut_file_is_asked_for_again(tmp_path: Path) -> None:
    hub.fetch(tmp_path, [SOURCE], Shelf())
    cut = tmp_path / "base" / "speech" / "model.safetensors"
    cut.write_bytes(b"spe")
    shelf = Shelf()
    hub.fetch(tmp_path, [SOURCE], shelf)
    assert shelf.asked == ["speech/model.safetensors"]
    assert cut.read_bytes() == b"speech"


def test_damage_on_the_way_is_seen(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"speech/model.safetensors is damaged: it has another content"):
        hub.fetch(tmp_path, [SOURCE], Shelf(damage="speech/model.safetensors"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda d: (d / "base" / "config.json").unlink(), "is missing", id="gone"),
        pytest.param(lambda d: (d / "base" / "config.json").write_text("{ }"), "3 bytes instead of 2", id="size"),
        pytest.param(
            lambda d: (d / "base" / "speech" / "model.safetensors").write_bytes(b"sqeech"), "another content", id="bits"
        ),
        pytest.param(lambda d: (d / "checksums.json").write_text("["), "is damaged", id="list of checksums"),
    ],
)
def test_later_damage_is_named(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    hub.fetch(tmp_path, [SOURCE], Shelf())
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        verify(tmp_path)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SPARE_BYTES", 10**18)
    shelf = Shelf()
    with pytest.raises(CapacityError):
        hub.fetch(tmp_path, [SOURCE], shelf)
    assert not shelf.asked


def test_a_renamed_file_is_missed(tmp_path: Path) -> None:
    other = Source(repository="somebody/model", folder="base", patterns=("weights.pth",))
    with pytest.raises(InputError, match=r"does not hold weights.pth"):
        hub.fetch(tmp_path, [other], Shelf())


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(InputError, match="somebody/model"):
        HuggingFace().files("somebody/model")


def test_both_published_repositories() -> None:
    sources = PUBLISHED["live-avatar-14b"]
    assert [s.repository for s in sources] == ["Wan-AI/Wan2.2-S2V-14B", "Quark-Vision/Live-Avatar"]

"""Download of published checkpoints: selection of files, disk space, resume, verification.

Files come through huggingface_hub, which resumes partial downloads and honours `HF_ENDPOINT` mirrors. Size and sha256
of each file, as the hub lists them, are stored as `checksums.json`, so that the files can be verified offline later.
"""

import fnmatch
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from liveavatar.checkpoints.checksums import ListedFile, verify, write_list
from liveavatar.errors import InputError
from liveavatar.files import require_disk

log = logging.getLogger(__name__)

SPARE_BYTES = 2 * 10**9  # beyond the files themselves: partial downloads, caches


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A published repository and the files of it that a model needs."""

    repository: str
    folder: str  # below the model directory
    patterns: tuple[str, ...]
    instead: tuple[tuple[str, str], ...] = ()  # (file, the same in a form that is skipped when the first is there)


PUBLISHED = {
    "live-avatar-14b": (
        Source(
            repository="Wan-AI/Wan2.2-S2V-14B",
            folder="Wan2.2-S2V-14B",
            patterns=(
                *("config.json", "diffusion_pytorch_model*", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"),
                *("google/umt5-xxl/*", "wav2vec2-large-xlsr-53-english/*.json"),
                *("wav2vec2-large-xlsr-53-english/model.safetensors",),
                *("wav2vec2-large-xlsr-53-english/pytorch_model.bin",),
            ),
            instead=(
                (
                    "wav2vec2-large-xlsr-53-english/model.safetensors",
                    "wav2vec2-large-xlsr-53-english/pytorch_model.bin",
                ),
            ),
        ),
        Source(
            repository="Quark-Vision/Live-Avatar",
            folder="Live-Avatar",
            patterns=("liveavatar.safetensors", "adapter_config.json"),
        ),
    ),
}


class Hub(Protocol):
    """Access to a model hub."""

    def files(self, repository: str) -> list[ListedFile]:
        """List all files of a repository."""

    def download(self, repository: str, paths: list[str], target: Path) -> None:
        """Download files below a folder; complete ones are kept, partial ones resumed."""


class HuggingFace:
    """The Hugging Face hub, or the mirror that `HF_ENDPOINT` names."""

    def files(self, repository: str) -> list[ListedFile]:
        """List all files of a repository; InputError when the hub does not answer."""
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(repository, files_metadata=True)
        except _hub_errors() as e:
            raise InputError(f"{repository}: {_reason(e)}") from e
        return [
            ListedFile(path=s.rfilename, size=s.size or 0, sha256=s.lfs.sha256 if s.lfs else None)
            for s in info.siblings or ()
        ]

    def download(self, repository: str, paths: list[str], target: Path) -> None:
        """Download files below a folder; InputError when the hub does not answer."""
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(repository, local_dir=target, allow_patterns=paths)
        except _hub_errors() as e:
            raise InputError(f"{repository}: {_reason(e)}") from e


def _hub_errors() -> tuple[type[Exception], ...]:
    """List the errors of huggingface_hub and of its HTTP library, which depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    transport = (sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules)
    return (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError, *transport)


def _reason(e: Exception) -> str:
    text = str(e).strip()
    return text.splitlines()[0][:200] if text else type(e).__name__


def select(source: Source, published: Iterable[ListedFile]) -> list[ListedFile]:
    """Select the files of a repository that a source needs, by path.

    Raises:
        InputError: a pattern without wildcard that matches nothing, alternatives and adapter settings excepted.
    """
    files = {f.path: f for f in published if any(fnmatch.fnmatch(f.path, p) for p in source.patterns)}
    for better, worse in source.instead:
        if better in files:
            files.pop(worse, None)
    optional = {path for pair in source.instead for path in pair} | {"adapter_config.json"}
    missing = [p for p in source.patterns if "*" not in p and p not in files and p not in optional]
    if missing:
        raise InputError(f"{source.repository} does not hold {', '.join(missing)}; was it renamed?")
    return sorted(files.values(), key=lambda f: f.path)


def fetch(target: Path, sources: Iterable[Source], hub: Hub) -> list[Path]:
    """Download the files that are missing, then verify all of them.

    Args:
        target: the model directory.
        sources: repositories.
        hub: to download them from.

    Returns:
        The files that were verified.

    Raises:
        InputError: the hub does not answer.
        CapacityError: the disk is too small.
        CheckpointError: a file arrived damaged.
    """
    selection = [(source, select(source, hub.files(source.repository))) for source in sources]
    missing = sum(f.size for s, files in selection for f in files if not _complete(target / s.folder / f.path, f))
    if missing:
        require_disk(target, missing + SPARE_BYTES, f"{missing / 1e9:.1f} GB of {target.name} not here yet")
    for source, files in selection:
        absent = [f.path for f in files if not _complete(target / source.folder / f.path, f)]
        if absent:
            log.info("fetching %d files of %s", len(absent), source.repository)
            hub.download(source.repository, absent, target / source.folder)
    target.mkdir(parents=True, exist_ok=True)
    write_list(target, {f"{s.folder}/{f.path}": f for s, files in selection for f in files})
    return verify(target)


def _complete(path: Path, published: ListedFile) -> bool:
    return path.is_file() and path.stat().st_size == published.size

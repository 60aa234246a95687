"""Hardware of a machine: GPUs by name or memory size and their practical speed, cores, memory, disk, ports.

Memory is counted in GB of 2^30 bytes, as drivers and PyTorch do. The driver, the CUDA context and the allocator's
slack take `RESERVE_GB` of every card, which leaves 22.15 of 24 GB.
"""

import errno
import importlib.util
import math
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from liveavatar import paths
from liveavatar.errors import InputError
from liveavatar.files import read_text

GB = 2**30  # bytes
# Of int8 queries and keys over bf16: 570 TFLOP/s in a stream on an H100 (data/benchmarks/gpu_h100_2026-11-23.md); on
# other kinds it is not measured.
ATTENTION8_GAIN = 1.1
MAX_GPUS = 64  # of a machine that is named
VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # widest first, as Linux names them
VNNI = frozenset(("avx512_vnni", "avx_vnni"))  # as Linux names them
RESERVE_GB = 1.85  # of every card: driver, context, allocator slack
_QUERY = ("nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Speed of a GPU in practice, not of its data sheet."""

    bf16: float  # TFLOP/s of large linears
    fp8: float  # TFLOP/s of large linears, fp8 operands; equals bf16 where there is no fp8 unit
    attention: float  # TFLOP/s, bf16, PyTorch's kernels
    flash3: float = 0.0  # TFLOP/s of FlashAttention-3 in bf16; 0: there is none
    flash3_e4m3: float = 0.0  # TFLOP/s of FlashAttention-3 in e4m3
    conv: float  # TFLOP/s of decoding video: the decoder's whole time over its operations
    bandwidth: float  # TB/s of element-wise kernels
    host_link: float = 0.022  # TB/s from pinned host memory; measured on an H200, others are assumed

    def self_attention(self, kv_cache_dtype: str) -> float:
        """Return the TFLOP/s of self-attention for a dtype of keys and values.

        "fp8" rings are read in bf16. Without FlashAttention-3 "e4m3" counts as bf16, and the job is refused.
        """
        if kv_cache_dtype == "int8":
            return ATTENTION8_GAIN * self.attention
        if kv_cache_dtype == "e4m3" and self.flash3_e4m3:
            return self.flash3_e4m3
        return max(self.attention, self.flash3)

    def without_flash3(self) -> "Rates":
        """Return the rates where FlashAttention-3 is not installed."""
        return replace(self, flash3=0.0, flash3_e4m3=0.0)

    @property
    def has_fp8(self) -> bool:
        """True when there is an 8-bit matrix unit."""
        return self.fp8 > self.bf16


# Hopper: measured over a whole stream on an H200 at 704*384 (the newest data/benchmarks/gpu_h200_*.md). The others are
# scaled from their published dense rates by the share that Hopper reaches of its own.
HOPPER = Rates(bf16=740, fp8=1460, attention=520, flash3=620, flash3_e4m3=830, conv=390, bandwidth=2.6, host_link=0.045)
GPU_KINDS = {
    "H200": (141.0, replace(HOPPER, bandwidth=3.6, host_link=0.054)),
    "H100": (80.0, HOPPER),
    "H800": (80.0, HOPPER),
    "B200": (180.0, Rates(bf16=1600, fp8=3360, attention=1040, conv=610, bandwidth=5.5, host_link=0.045)),
    "A100": (80.0, Rates(bf16=230, fp8=230, attention=173, conv=105, bandwidth=1.4)),
    # 48 GB on the box, of which error correction takes its share.
    "L40S": (45.0, Rates(bf16=200, fp8=415, attention=139, conv=95, bandwidth=0.65)),
    "A6000": (48.0, Rates(bf16=110, fp8=110, attention=81, conv=53, bandwidth=0.58)),
    "5090": (32.0, Rates(bf16=190, fp8=415, attention=150, conv=95, bandwidth=1.3, host_link=0.045)),
    "4090": (24.0, Rates(bf16=145, fp8=315, attention=116, conv=74, bandwidth=0.75)),
    "3090": (24.0, Rates(bf16=62, fp8=62, attention=52, conv=34, bandwidth=0.7)),
}
_BY_MEMORY = ((170, "B200"), (120, "H200"), (60, "H100"), (40, "L40S"), (28, "5090"), (0, "4090"))  # at least GB


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    memory_gb: float
    rates: Rates
    leave_gb: float = 0.0  # of its memory, for other programs
    assumed: str = ""  # kind whose speed is assumed, by the memory alone; empty: the kind is known

    @property
    def usable_gb(self) -> float:
        """Memory that a job may fill, in GB."""
        return max(0.0, self.memory_gb - RESERVE_GB - self.leave_gb)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Machine that a job would run on; without GPUs the CPU does the work."""

    gpus: tuple[Gpu, ...]
    cores: int
    host_gb: float  # memory a job may fill
    disk_gb: float  # free, where results go
    home_gb: float | None = None  # free below LIVEAVATAR_HOME, where unfinished jobs lie; None: the same disk

    @property
    def work_gb(self) -> float:
        """Free space for the files of unfinished jobs."""
        return self.disk_gb if self.home_gb is None else self.home_gb

    @property
    def has_fp8(self) -> bool:
        """True when there are GPUs and each has an 8-bit matrix unit."""
        return bool(self.gpus) and all(gpu.rates.has_fp8 for gpu in self.gpus)

    def leaving(self, leave_gb: float) -> "Machine":
        """Return the machine with so much memory left to other programs: of every GPU, or of the host without one."""
        if not self.gpus:
            return replace(self, host_gb=self.host_gb - leave_gb)
        return replace(self, gpus=tuple(replace(gpu, leave_gb=leave_gb) for gpu in self.gpus))


def gpu_of(name: str, memory_gb: float | None = None) -> Gpu:
    """Look up a GPU by its name, or by its memory when the name is of no kind in `GPU_KINDS`.

    Raises:
        InputError: an unknown name without a memory size.
    """
    compact = name.upper().replace(" ", "")
    known = kind = next((k for k in GPU_KINDS if k in compact), None)
    if kind is None and memory_gb is None:
        raise InputError(
            f'GPU "{name}" is not known here; write its memory, such as "1x24GB", or one of {", ".join(GPU_KINDS)}'
        )
    if kind is None:
        kind = next(k for least, k in _BY_MEMORY if memory_gb is not None and memory_gb >= least)
    nominal, rates = GPU_KINDS[kind]
    return Gpu(name=name, memory_gb=memory_gb or nominal, rates=rates, assumed="" if known else str(kind))


def parse_gpus(spec: str, option: str = "--gpus") -> tuple[Gpu, ...]:
    """Parse a text such as "4x24GB", "1xH100", "H200", "2xA100-40GB", "1xH100,2x24GB" or "cpu" into GPUs.

    Args:
        spec: the text.
        option: that it was given with, for errors.

    Raises:
        InputError: the text has another form, or names an unknown GPU.
    """
    text = spec.strip()
    if text.lower() in ("cpu", "none", "0"):
        return ()
    gpus = tuple(gpu for kind in text.split(",") for gpu in _gpus_of_a_kind(kind.strip(), f"{option} {spec}"))
    if len(gpus) > MAX_GPUS:
        raise InputError(f"{option} {spec}: {len(gpus)} GPUs are more than a machine has; name at most {MAX_GPUS}")
    return gpus


def _gpus_of_a_kind(text: str, given: str) -> tuple[Gpu, ...]:
    match = re.fullmatch(r"(?:(\d{1,3})\s*[x*×]\s*)?(.+)", text, re.IGNORECASE)
    count = int(match[1] or 1) if match else 0
    if not match or not match[2][0].isalnum() or not 1 <= count <= MAX_GPUS:
        raise InputError(f'{given}: write "4x24GB", "1xH100" or "cpu" (1 to {MAX_GPUS} GPUs)')
    kind = match[2].strip()
    memory = re.search(r"(\d+(?:\.\d+)?)\s*G(?:i?B)?$", kind, re.IGNORECASE)
    if memory and not 1 <= float(memory[1]) <= 1024:
        raise InputError(f"{given}: {memory[1]} GB is no size of a GPU's memory; write for example 4x24GB")
    name = kind if memory is None or memory.start() else f"{memory[1]} GB"
    try:
        return (gpu_of(name, float(memory[1]) if memory else None),) * count
    except InputError as e:
        raise InputError(f"{given}: {e}") from e


def detect_gpus() -> tuple[Gpu, ...]:
    """Ask the driver for the NVIDIA GPUs that this process may use; empty when there are none.

    Where one of them is lost, the driver says so in its exit code and names the others.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or not Path("/dev/nvidiactl").exists():
        return ()
    try:
        listed = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(as_installed(gpu) for gpu in listed_gpus(listed, visible))


def as_installed(gpu: Gpu) -> Gpu:
    """Return a GPU of this machine with the rates that it reaches here, where FlashAttention-3 may be missing."""
    if importlib.util.find_spec("fa3_fwd_interface") is None:
        return replace(gpu, rates=gpu.rates.without_flash3())
    return gpu


def listed_gpus(listed: str, visible: str | None = None) -> list[Gpu]:
    """Read the driver's list of GPUs, one a line: UUID, name, MiB.

    Args:
        listed: the list.
        visible: `CUDA_VISIBLE_DEVICES`, numbers or beginnings of UUIDs; as in CUDA, what follows an unknown one does
            not count. None: all.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    rows = [row for row in rows if len(row) == 3 and row[2].isdigit()]
    if visible is not None:
        chosen: list[list[str]] = []
        for part in (part.strip() for part in visible.split(",")):
            known = (i for i, row in enumerate(rows) if part in (str(i), row[0][: len(part)]) and part)
            index = next(known, None)
            if index is None:
                break
            chosen.append(rows[index])
        rows = chosen
    return [gpu_of(name, float(mebibytes) / 1024) for _, name, mebibytes in rows]


_ROOT = Path("/")
# Limit, use, and its parts: of control groups of the second and the first version.
_CGROUPS = (
    tuple(f"sys/fs/cgroup/{name}" for name in ("memory.max", "memory.current", "memory.stat")),
    tuple(f"sys/fs/cgroup/memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")),
)
_MEMINFO = ("MemTotal", "MemAvailable")


def memory_limit_gb() -> float:
    """Return the memory that this process may use: the machine's, or its container's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path, _, _ in _CGROUPS:
        try:
            total = min(total, int((_ROOT / path).read_text()))
        except (OSError, ValueError):
            continue  # no limit there
    return total / GB


def available_gb() -> float:
    """Return the memory that is free or can be freed now, within the container's limit."""
    return min(memory_limit_gb(), _meminfo(_ROOT)[1])


def host_memory_gb(root: Path = _ROOT) -> tuple[float, float]:
    """Return the memory in use and in all: of the container where it has a limit, else of the machine.

    What the system holds of files and gives back when it is needed does not count as used.

    Args:
        root: of the file system that is read.
    """
    total, available = _meminfo(root)
    for limit, usage, cache in _CGROUPS:
        try:
            most = int((root / limit).read_text()) / GB
            used = int((root / usage).read_text()) / GB
            held = re.search(r"^(?:total_)?inactive_file (\d+)$", (root / cache).read_text(), re.MULTILINE)
        except (OSError, ValueError):
            continue  # no limit there
        if most < total:
            return max(0.0, used - (int(held[1]) / GB if held else 0.0)), most
    return total - available, total


def _meminfo(root: Path) -> tuple[float, float]:
    """Return the machine's memory in all and available."""
    try:
        text = (root / "proc/meminfo").read_text()
        total, available = (int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) / 2**20 for name in _MEMINFO)
        return total, available
    except (OSError, IndexError):  # not Linux
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
        return total, total


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_flags(root: Path = _ROOT) -> frozenset[str]:
    """Read the words that Linux describes the processor with, its instruction sets among them; empty elsewhere."""
    try:
        return frozenset(read_text(root / "proc/cpuinfo").split())
    except OSError:
        return frozenset()


def widest_vectors(root: Path = _ROOT) -> str | None:
    """Name the widest vector instructions of the processor; None for none that is known here."""
    flags = processor_flags(root)
    return next((name for name in VECTORS if name in flags), None)


def uses_vnni(root: Path = _ROOT) -> bool:
    """Tell if bytes are convolved faster than bfloat16: by VNNI, which sums four products in one instruction.

    Not with AMX, whose tiles multiply bfloat16 twice as fast as VNNI bytes; its bytes are not measured.
    """
    flags = processor_flags(root)
    return "amx_bf16" not in flags and not VNNI.isdisjoint(flags)


def free_disk_gb(path: Path) -> float:
    """Return the free space on the disk of `path` or its nearest existing parent."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free / GB


def listens(host: str, port: int, seconds: float) -> bool:
    """Tell whether something takes TCP connections at an address, which is asked for so many seconds at most."""
    try:
        socket.create_connection((host, port), seconds).close()
    except (OSError, OverflowError):  # the latter for a number that is no port
        return False
    return True


def free_port() -> int:
    """Find a TCP port that nothing listens on at 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_no_port(port: int, seconds: float) -> str:
    """Tell why a TCP port of 127.0.0.1 cannot be listened at after so many seconds; empty once it can."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
            try:
                probe.bind(("127.0.0.1", port))
                return ""
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    return f"it cannot be used ({e.strerror})"
                if time.monotonic() > deadline:
                    return "another program listens there"
        time.sleep(0.1)


def detect_machine(out: Path, gpus: tuple[Gpu, ...] | None = None) -> Machine:
    """Describe this machine; or, for named GPUs, another one whose host memory and disk are not known.

    Args:
        out: folder of the results; its disk counts, and that of LIVEAVATAR_HOME.
        gpus: of the other machine; () is this machine's CPU, None detects the GPUs.
    """
    if gpus:
        return Machine(gpus=gpus, cores=cores(), host_gb=math.inf, disk_gb=math.inf)
    here = detect_gpus() if gpus is None else ()
    return Machine(
        gpus=here,
        cores=cores(),
        host_gb=available_gb(),
        disk_gb=free_disk_gb(out),
        home_gb=free_disk_gb(paths.home()),
    )

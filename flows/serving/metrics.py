"""Metrics of a home for Prometheus, on the page of `liveavatar serve`: counters of renders, queue, memory, store.

They are collected when they are asked for. The counters cover every render of the home, whoever started it.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response

from flows.counters import read_counters
from flows.serving.studio.jobs import RUNNING, WAITING, JobQueue
from liveavatar import __version__, paths
from liveavatar.engine.memory import MemoryReading, shortages
from liveavatar.hardware import GB, host_memory_gb
from tasks.store.store import Store

TEXT = "text/plain; version=0.0.4; charset=utf-8"
STORE_SECONDS = 60.0  # between two walks through the store
SUMS = {
    "blocks": "Blocks of 12 frames that were rendered",
    "frames": "Frames of published videos that were rendered",
    "deadline_misses": "Blocks that came later than they are played",
}
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,name,memory.used,memory.total", "--format=csv,noheader,nounits")
MIB = 2**20


class HomeMetrics:
    """Collector of the metrics of a home."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._store: tuple[float, int, int] | None = None  # when it was walked, bytes, entries

    def collect(self) -> Iterator[Metric]:
        """Collect all metrics, as a registry of prometheus_client asks for them."""
        build = GaugeMetricFamily("liveavatar_build_info", "Version of the product", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield from self._renders()
        yield from self._jobs()
        yield from _memory()
        yield from self._sizes()

    def _renders(self) -> Iterator[Metric]:
        counts, running = read_counters()
        runs = CounterMetricFamily("liveavatar_runs", "Runs by verdict, or by how they ended", labels=["status"])
        stages = CounterMetricFamily("liveavatar_stage_runs", "Stages that ran or were cached", labels=["stage", "how"])
        seconds = CounterMetricFamily("liveavatar_stage_seconds", "Seconds that stages took", labels=["stage"])
        for name, value in sorted(counts.items()):
            kind, *labels = name.split("/")
            if kind == "runs":
                runs.add_metric(labels, value)
            elif kind == "stage":
                stages.add_metric(labels, value)
            elif kind == "seconds":
                seconds.add_metric(labels, value)
        yield from (runs, stages, seconds)
        for name, text in SUMS.items():
            yield CounterMetricFamily(f"liveavatar_{name}", text, value=counts[name])
        jobs = running.values()
        yield GaugeMetricFamily("liveavatar_renders_running", "Renders that make blocks now", value=len(jobs))
        yield GaugeMetricFamily(
            "liveavatar_frames_per_second", "Frames a second of all renders now", value=sum(job["fps"] for job in jobs)
        )
        yield GaugeMetricFamily(
            "liveavatar_blocks_left", "Blocks that running renders still have to make",
            value=sum(job["total"] - job["done"] for job in jobs),
        )  # fmt: skip

        yield from _ranks(list(jobs))

    def _jobs(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily("liveavatar_queue_jobs", "Jobs of the queue", labels=["state"])
        try:
            states: list[str] | None = [job.state for job in self._queue.jobs()]
        except Exception:  # noqa: BLE001 (whatever its client raises when the server of Prefect is away)
            states = None
        for state in () if states is None else (RUNNING, WAITING):
            queued.add_metric([state], (states or []).count(state))
        yield queued
        yield GaugeMetricFamily(
            "liveavatar_prefect_up", "1 when the Prefect server answers", value=int(states is not None)
        )

    def _sizes(self) -> Iterator[Metric]:
        now = time.monotonic()
        if self._store is None or now - self._store[0] > STORE_SECONDS:
            entries = Store().entries()
            self._store = (now, sum(entry.size for entry in entries), len(entries))
        yield GaugeMetricFamily("liveavatar_store_bytes", "Size of the artefact store", value=self._store[1])
        yield GaugeMetricFamily("liveavatar_store_entries", "Entries of the artefact store", value=self._store[2])
        yield GaugeMetricFamily("liveavatar_store_limit_bytes", "Size it keeps at most", value=paths.store_bytes())


def _ranks(jobs: list[dict[str, Any]]) -> Iterator[Metric]:
    """Tell the memory of each process that renders now, as it said last."""
    gauge = GaugeMetricFamily(
        "liveavatar_rank_memory_bytes", "Memory of processes that render now", labels=["job", "rank", "kind"]
    )
    short = 0
    for number, job in enumerate(jobs):
        readings = [MemoryReading(**values) for values in job.get("memory", ())]
        short += bool(shortages(readings))
        for rank, reading in enumerate(readings):
            for kind, value in asdict(reading).items():
                if reading.gpu_total or not kind.startswith("gpu_"):
                    gauge.add_metric([str(number), str(rank), kind], value * GB)
    yield gauge
    yield GaugeMetricFamily("liveavatar_renders_short_of_memory", "Renders whose memory is nearly full", value=short)


def _memory() -> Iterator[Metric]:
    host = GaugeMetricFamily("liveavatar_host_memory_bytes", "Memory of the machine or container", labels=["kind"])
    used, total = host_memory_gb()
    host.add_metric(["used"], used * GB)
    host.add_metric(["total"], total * GB)
    yield host
    gpus = GaugeMetricFamily("liveavatar_gpu_memory_bytes", "Memory of the GPUs", labels=["gpu", "name", "kind"])
    for index, name, used, total in gpu_memory(_ask_driver()):
        gpus.add_metric([index, name, "used"], used)
        gpus.add_metric([index, name, "total"], total)
    yield gpus


def _ask_driver() -> str:
    try:
        return subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # no GPU


def gpu_memory(listed: str) -> list[tuple[str, str, int, int]]:
    """Read the driver's list of GPUs: index, name, bytes used, bytes in all."""
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    return [
        (row[0], row[1], int(row[2]) * MIB, int(row[3]) * MIB)
        for row in rows
        if len(row) == 4 and row[2].isdigit() and row[3].isdigit()
    ]


class MetricsPage:
    """The route of the metrics."""

    def __init__(self, queue: JobQueue) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HomeMetrics(queue))

    def answer(self, _: Request) -> Response:
        """Answer a request of Prometheus."""
        return Response(generate_latest(self._registry), media_type=TEXT)

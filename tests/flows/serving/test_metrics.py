"""Metrics for Prometheus: what they hold, and that the dashboard of `infra/` asks for nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flows.counters import tallied
from flows.serving.metrics import HomeMetrics, MetricsPage, gpu_memory
from flows.serving.studio.jobs import RUNNING, WAITING, QueuedJob
from liveavatar.engine.memory import MemoryReading
from liveavatar.paths import REPO_ROOT
from tasks.events import Event, emit
from tasks.store.store import Store

MEMORY = (MemoryReading(1.0, 4.0, 16.0), MemoryReading(1.0, 4.0, 16.0, 23.75, 24.0, 0.25))
REPORT = {
    "status": "warned",
    "stages": {"render": {"cached": False}},
    "video": {"num_frames": 48},
    "timing": {"deadline_misses": 2},
}


class Queue:
    """A queue with jobs in these states; None: Prefect is away."""

    def __init__(self, *states: str, away: bool = False) -> None:
        self.states, self.away = states, away

    def start(self, parameters: dict[str, object]) -> str:
        raise AssertionError(parameters)

    def jobs(self) -> list[QueuedJob]:
        if self.away:
            raise RuntimeError("away")
        return [QueuedJob(id="1", name="a", state=state, label="", message="") for state in self.states]

    def cancel(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def go_on(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def renew_form(self) -> None:
        raise AssertionError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    monkeypatch.delenv("LIVEAVATAR_STORE_URL", raising=False)
    return tmp_path


def samples(queue: Queue) -> dict[str, float]:
    """What Prometheus reads: name and labels -> value."""
    text = MetricsPage(queue).answer(None).body.decode()  # type: ignore[arg-type] # it looks at no request
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_renders_queue_memory_and_store_are_told() -> None:
    Store().build("render", "k" * 64, lambda folder: {})
    with tallied() as tally:
        emit(Event(kind="end", stage="enhance", text="1.5 s"))
        emit(Event(kind="end", stage="features", text="0.0 s", cached=True))
        for done in (1, 2, 4):
            emit(Event(kind="progress", stage="render", done=done, total=8, fps=12.5, memory=MEMORY))
        tally.write()
        running = samples(Queue(RUNNING, WAITING, WAITING))
        tally.judged(REPORT)
    told = samples(Queue(away=True))
    assert running["liveavatar_frames_per_second"] == 12.5
    assert running["liveavatar_blocks_left"] == 4
    assert running["liveavatar_rank_memory_bytes 0 process 0"] == 2**30
    assert running["liveavatar_rank_memory_bytes 0 gpu_used 1"] == 23.75 * 2**30
    assert "liveavatar_rank_memory_bytes 0 gpu_used 0" not in running, "it has no GPU"
    assert (running["liveavatar_renders_short_of_memory"], told["liveavatar_renders_short_of_memory"]) == (1, 0)
    assert (running["liveavatar_queue_jobs waiting"], running["liveavatar_queue_jobs running"]) == (2, 1)
    assert (running["liveavatar_prefect_up"], told["liveavatar_prefect_up"]) == (1, 0)
    assert "liveavatar_queue_jobs waiting" not in told
    assert told["liveavatar_renders_running"] == 0
    assert told["liveavatar_runs_total warned"] == 1
    assert told["liveavatar_blocks_total"] == 4
    assert (told["liveavatar_frames_total"], told["liveavatar_deadline_misses_total"]) == (48, 2)
    assert told["liveavatar_stage_runs_total made enhance"] == 1
    assert told["liveavatar_stage_runs_total cached features"] == 1
    assert told["liveavatar_stage_seconds_total enhance"] == 1.5
    assert 0 < told["liveavatar_host_memory_bytes used"] <= told["liveavatar_host_memory_bytes total"]
    assert told["liveavatar_store_entries"] == 1
    assert told["liveavatar_store_limit_bytes"] == 20e9


def test_the_memory_of_gpus_is_read_from_the_driver() -> None:
    listed = "0, NVIDIA H200, 1024, 143771\n1, NVIDIA H200, [N/A], 143771\nNo devices were found\n"
    assert gpu_memory(listed) == [("0", "NVIDIA H200", 2**30, 143771 * 2**20)]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    names = {metric.name for metric in HomeMetrics(Queue()).collect()}
    names |= {f"{metric.name}_total" for metric in HomeMetrics(Queue()).collect() if metric.type == "counter"}
    dashboard = json.loads((REPO_ROOT / "infra" / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) >= len(dashboard["panels"]) > 10
    assert not set(re.findall(r"liveavatar_\w+", " ".join(asked))) - names
    divided = [expr for expr in asked if "/" in expr]
    assert len(divided) >= 2
    assert all(expr.endswith("> 0)") for expr in divided), "a share of nothing is drawn as NaN or infinity"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    config = yaml.safe_load((REPO_ROOT / "infra" / "prometheus.yaml").read_text())
    assert config["scrape_configs"][0]["metrics_path"] == "/metrics"

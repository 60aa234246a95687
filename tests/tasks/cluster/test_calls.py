"""Calls through Ray, played by a table of answers: errors as themselves or as a loss, a job's answers in turn."""

import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from liveavatar.errors import InputError
from liveavatar.render.job import RenderJob
from tasks.cluster import calls
from tasks.cluster.calls import Process, RayJob, await_results, results
from tasks.cluster.gpus import GpuLost
from tasks.cluster.supervision import Answer, EngineLost, HeadLost

JOB = cast(RenderJob, SimpleNamespace(digest="d"))


class FakeRay:
    """Calls by name: those that have ended, and what they gave."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.waits: list[list[str]] = []

    def wait(self, references: list[str], num_returns: int = 1, timeout: float | None = None) -> Any:
        self.waits.append(list(references))
        done = [reference for reference in references if reference in self.answers][:num_returns]
        return done, [reference for reference in references if reference not in done]

    def get(self, references: list[str], timeout: float | None = None) -> list[Any]:
        answers = [self.answers[reference] for reference in references]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(calls, "ray", made)
    monkeypatch.setattr(calls, "this_caller", lambda: "me")
    monkeypatch.setattr(calls.time, "sleep", lambda _: None)
    return made


class FakeActor:
    """An actor whose calls have its name and a number."""

    def __init__(self, name: str) -> None:
        self.name, self.asked, self.given = name, list[str](), list[Any]()

    def __getattr__(self, method: str) -> Any:
        def remote(*given: Any) -> str:
            self.asked.append(method)
            self.given.append(given)
            return f"{self.name}.{method}.{self.asked.count(method)}"

        return SimpleNamespace(remote=remote)


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError(function_name="render", traceback_str="trace", cause=cause)


@pytest.mark.parametrize(
    ("cause", "any_error_is_a_loss", "raised"),
    [
        pytest.param(GpuLost("CUDA error"), False, EngineLost, id="the GPU is lost"),
        pytest.param(InputError("too large"), False, InputError, id="an error that users know"),
        pytest.param(InputError("too large"), True, InputError, id="in a group too"),
        pytest.param(RuntimeError("gloo"), False, RuntimeError, id="a fault of one process is itself"),
        pytest.param(RuntimeError("gloo"), True, EngineLost, id="in a group the trace of another's loss"),
        pytest.param(ImportError("triton"), True, ImportError, id="a missing package"),
    ],
)
def test_an_error_of_the_called_code(
    cause: Exception, any_error_is_a_loss: bool, raised: type[Exception], ray: FakeRay
) -> None:
    ray.answers = {"good": 1, "bad": task_error(cause)}
    assert results(["good"], None, any_error_is_a_loss=any_error_is_a_loss) == [1]
    with pytest.raises(raised, match=str(cause)):
        results(["good", "bad"], None, any_error_is_a_loss=any_error_is_a_loss)


def test_a_process_that_ended_is_a_loss(ray: FakeRay) -> None:
    ray.answers = {"gone": RayActorError()}
    with pytest.raises(EngineLost):
        results(["gone"], None, any_error_is_a_loss=False)


class FakeHead:
    """A head that is lost at its third look."""

    looks = 0

    def check(self) -> None:
        self.looks += 1
        if self.looks > 2:
            raise HeadLost("gone")


def test_a_wait_ends_with_the_calls_with_the_head_or_in_time(ray: FakeRay) -> None:
    ray.answers = {"a": 1, "b": 2}
    await_results(["a", "b"], FakeHead(), 0)
    with pytest.raises(HeadLost):
        await_results(["a", "never"], FakeHead(), 1000)
    with pytest.raises(GetTimeoutError, match="no answer within 0 s"):
        await_results(["never"], FakeHead(), 0)


def test_a_process_is_killed_where_it_is(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    assert Process.current() == Process("here", os.getpid())
    Process("here", 77).kill()
    assert killed == [(77, signal.SIGKILL)]


def test_a_job_begins_on_all_ranks_and_answers_with_progress(ray: FakeRay) -> None:
    owner, other = FakeActor("owner"), FakeActor("other")
    job = RayJob(owner, [other], JOB)  # type: ignore[arg-type, list-item]
    assert (owner.asked, other.asked) == (["render", "progress"], ["serve"])
    assert owner.given[0] == (JOB, "me"), "the engine learns whose job it is"
    assert job.poll(0.1) == Answer()
    ray.answers["owner.progress.1"] = "progress"
    assert job.poll(0.1) == Answer(alive=True, progress="progress")  # type: ignore[arg-type]
    assert job.poll(0.1) == Answer()
    assert owner.asked.count("progress") == 2, "asked again after an answer"
    assert not job.ended()
    ray.answers["owner.render.1"] = "result"
    assert job.ended()
    assert job.poll(0.1) == Answer(alive=True, result="result")  # type: ignore[arg-type]
    job.stop()
    assert owner.asked[-1] == "stop"


def test_a_gpu_is_asked_once_at_a_time_and_not_in_a_group(ray: FakeRay) -> None:
    owner = FakeActor("owner")
    job = RayJob(owner, [], JOB)  # type: ignore[arg-type]
    job.ask_gpu(60)
    job.ask_gpu(60)
    assert owner.asked.count("gpu_hangs") == 1
    assert job.poll(0.1) == Answer()
    ray.answers["owner.gpu_hangs.1"] = True
    assert job.poll(0.1) == Answer(alive=True, gpu_hangs=True)
    assert job.poll(0.1) == Answer()
    job.ask_gpu(60)
    ray.answers["owner.gpu_hangs.2"] = False
    assert job.poll(0.1) == Answer(alive=True)
    ranks = in_group()
    ranks.ask_gpu(60)
    assert "gpu_hangs" not in cast(Any, ranks.owner).asked, "the other ranks notice"


@pytest.mark.parametrize(
    ("others", "raised"),
    [pytest.param([], ValueError, id="alone"), pytest.param(["other"], EngineLost, id="in a group")],
)
def test_a_fault_of_the_owner_is_a_loss_in_a_group(others: list[str], raised: type[Exception], ray: FakeRay) -> None:
    job = RayJob(FakeActor("owner"), [FakeActor(name) for name in others], JOB)  # type: ignore[arg-type, misc]
    ray.answers["owner.render.1"] = task_error(ValueError("gloo"))
    with pytest.raises(raised, match="gloo"):
        job.poll(0.1)


def in_group() -> RayJob:
    return RayJob(FakeActor("owner"), [FakeActor("other")], JOB)  # type: ignore[arg-type, list-item]


def test_a_rank_that_ends_well_is_not_asked_again_and_one_that_dies_is_noticed(ray: FakeRay) -> None:
    ray.answers["other.serve.1"] = True
    job = in_group()
    job.poll(0.1)
    job.poll(0.1)
    assert "other.serve.1" not in ray.waits[-1]
    ray.answers["other.serve.1"] = RayActorError()
    with pytest.raises(EngineLost):
        in_group().poll(0.1)

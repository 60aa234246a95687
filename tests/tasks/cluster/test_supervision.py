"""Supervision of a job on an engine that is played by a script: no process, no Ray."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError, InputError, Interrupted
from liveavatar.render.job import Progress, RenderJob, RenderResult
from liveavatar.render.sound import FileSound
from tasks.cluster import supervision
from tasks.cluster.interruption import Interruption
from tasks.cluster.supervision import MAX_REVIVALS, Answer, EngineLost, HeadLost, supervise

RESULT = cast(RenderResult, "result")
SILENT = Answer()
Step = Answer | BaseException | Callable[[], Answer]


def progress(done: int) -> Progress:
    return Progress(phase="render", done=done, total=9, fps=1.0)


def answer(done: int) -> Answer:
    return Answer(alive=True, progress=progress(done))


ENDED = Answer(alive=True, result=RESULT)


@dataclass
class Script:
    """An engine whose answers are written down: one list a start, one entry a look."""

    starts: list[list[Step]]
    start_error: BaseException | None = None
    load_error: BaseException | None = None
    after_stop: RenderResult | BaseException = RESULT
    name: str = "the engine"
    alternative: str = ", or on paper"
    jobs: list[RenderJob] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def start(self) -> "Script":
        self.calls.append("start")
        if self.start_error is not None:
            error, self.start_error = self.start_error, None
            raise error
        return self

    def load(self) -> float:
        if self.load_error is not None:
            error, self.load_error = self.load_error, None
            raise error
        return 1.5

    def begin(self, job: RenderJob) -> "Script":
        self.jobs.append(job)
        self.steps = iter(self.starts[len(self.jobs) - 1])
        return self

    def poll(self, seconds: float) -> Answer:
        step = next(self.steps)
        if isinstance(step, BaseException):
            raise step
        return step if isinstance(step, Answer) else step()

    def ask_gpu(self, seconds: float) -> None:
        self.calls.append(f"ask the GPU for {seconds:.0f} s")

    def stop(self) -> None:
        self.calls.append("stop")

    def result(self, seconds: float) -> RenderResult:
        if isinstance(self.after_stop, BaseException):
            raise self.after_stop
        return self.after_stop

    def recycle(self) -> None:
        self.calls.append("recycle")

    def end(self) -> None:
        self.calls.append("end")


@dataclass
class FakeHead:
    """A head that is lost at some looks, or sees an interruption."""

    lost_at: tuple[int, ...] = ()
    interrupted_at: int = 0
    looks: int = 0
    recovered: int = 0
    stop_seconds: float = 60.0
    interruption: Interruption = field(default_factory=Interruption)

    def check(self) -> None:
        self.looks += 1
        if self.looks in self.lost_at:
            raise HeadLost("the head answers no more")
        if self.looks == self.interrupted_at:
            raise KeyboardInterrupt

    def recover(self) -> None:
        self.recovered += 1


@dataclass
class Run:
    """One supervised job and the numbers that its caller was told."""

    script: Script
    head: FakeHead = field(default_factory=FakeHead)
    limit_s: float = 60.0
    done: list[int] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def render(self) -> RenderResult:
        job = RenderJob(
            digest="d", work_dir=Path("w"), image=Path("i"), settings=RenderSettings(prompt="p"),
            sound=FileSound(features=Path("f"), audio=Path("a"), num_frames=108),
        )  # fmt: skip
        return supervise(
            self.script.start, self.head, job, self.limit_s, lambda p: self.done.append(p.done), self.loads.append
        )


def test_progress_is_passed_on_once_and_the_result_comes_out() -> None:
    run = Run(Script([[SILENT, answer(1), answer(1), SILENT, Answer(alive=True), answer(2), ENDED]]))
    assert run.render() == RESULT
    assert run.done == [1, 2]
    assert run.loads == [1.5]
    assert run.script.calls == ["start"]
    assert not run.script.jobs[0].resume


def test_a_lost_engine_is_recycled_and_the_job_resumed() -> None:
    run = Run(Script([[answer(3), EngineLost("it died")], [answer(4), ENDED]]))
    assert run.render() == RESULT
    assert [job.resume for job in run.script.jobs] == [False, True]
    assert run.script.jobs[1] == replace(run.script.jobs[0], resume=True)
    assert run.script.calls == ["start", "recycle", "start"]
    assert run.loads == [1.5, 1.5]


def test_an_engine_lost_while_it_loads_is_started_again() -> None:
    run = Run(Script([[ENDED]], load_error=EngineLost("no answer")))
    assert run.render() == RESULT
    assert run.script.calls == ["start", "recycle", "start"]
    assert run.script.jobs[0].resume


def test_a_head_lost_before_the_engine_is_asked_for_is_replaced() -> None:
    run = Run(Script([[ENDED]], start_error=HeadLost("the head answers no more")))
    assert run.render() == RESULT
    assert (run.script.calls, run.head.recovered) == (["start", "start"], 1)
    assert run.script.jobs[0].resume


def test_after_too_many_losses_the_way_out_is_named() -> None:
    run = Run(Script([[EngineLost("it died")]] * (MAX_REVIVALS + 1)))
    with pytest.raises(CapacityError) as error:
        run.render()
    text = str(error.value)
    assert f"the engine was lost {MAX_REVIVALS + 1} times on this job (it died)" in text
    assert "--resume, or on paper" in text
    assert run.script.calls.count("start") == run.script.calls.count("recycle") == MAX_REVIVALS + 1


def test_a_lost_head_is_replaced_and_leaves_the_engine_alone() -> None:
    run = Run(Script([[answer(1), answer(2)], [ENDED]]), FakeHead(lost_at=(3,)))
    assert run.render() == RESULT
    assert run.head.recovered == 1
    assert run.script.calls == ["start", "start"]
    assert run.script.jobs[1].resume


def test_a_head_that_is_lost_again_and_again_ends_the_job() -> None:
    run = Run(Script([[]] * 9), FakeHead(lost_at=tuple(range(1, 10))))
    with pytest.raises(CapacityError, match=f"{MAX_REVIVALS + 1} times; see `liveavatar doctor`"):
        run.render()
    assert run.head.recovered == MAX_REVIVALS


def test_an_engine_that_does_not_answer_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def later() -> Answer:
        nonlocal now
        now += 20.0
        return SILENT

    def answers_late() -> Answer:
        later()
        return answer(1)

    monkeypatch.setattr(supervision.time, "monotonic", lambda: now)
    run = Run(Script([[later, later, answers_late, later, later, later, later], [ENDED]]))
    assert run.render() == RESULT
    assert run.done == [1]
    assert run.script.calls == ["start", "recycle", "start"]
    assert now == 140.0, "60 s after its last answer, not after its start"


class Clock:
    """A clock that only its looks move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(supervision.time, "monotonic", lambda: self.now)

    def after(self, seconds: float, given: Answer) -> Callable[[], Answer]:
        """A look that takes so long."""

        def look() -> Answer:
            self.now += seconds
            return given

        return look


STILL = Answer(alive=True)  # its process answers, no block has come
HANGS = Answer(alive=True, gpu_hangs=True)


def test_a_gpu_that_hangs_in_a_kernel_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    after = Clock(monkeypatch).after
    waits: list[Step] = [after(90, STILL), after(11, STILL), after(100, HANGS), STILL]
    script = Script([[after(40, answer(1)), after(4, answer(2)), after(20, answer(3)), *waits], [ENDED]])
    assert Run(script).render() == RESULT
    assert script.calls == ["start", "ask the GPU for 100 s", "recycle", "start"], (
        "five times the slowest but the first"
    )
    assert [job.resume for job in script.jobs] == [False, True]


def test_a_gpu_that_hangs_before_the_first_block_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    after = Clock(monkeypatch).after
    script = Script([[after(250, STILL), after(51, STILL), after(300, HANGS), SILENT, STILL], [ENDED]])
    assert Run(script).render() == RESULT
    assert script.calls == ["start", f"ask the GPU for {supervision.FIRST_SECONDS:.0f} s", "recycle", "start"]


def test_a_slow_block_of_a_gpu_that_computes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot on a slow disk, say; the GPU is asked again now and then."""
    after = Clock(monkeypatch).after
    first: list[Step] = [after(1, answer(1)), after(1, answer(2))]
    script = Script(
        [[*first, *[after(25, STILL)] * 7, after(1, answer(3)), after(25, STILL), after(1, answer(4)), ENDED]]
    )
    assert Run(script).render() == RESULT
    assert script.calls == ["start", *["ask the GPU for 60 s"] * 2]


def test_a_block_that_comes_while_the_gpu_is_asked_shows_that_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    after = Clock(monkeypatch).after
    steps: list[Step] = [after(1, answer(1)), after(1, answer(2)), after(61, STILL), after(60, HANGS)]
    script = Script([[*steps, answer(3), STILL, ENDED]])
    assert Run(script).render() == RESULT
    assert script.calls == ["start", "ask the GPU for 60 s"]


def test_an_error_of_the_job_is_no_loss() -> None:
    run = Run(Script([[InputError("the job does not fit the model")]]))
    with pytest.raises(InputError, match="does not fit"):
        run.render()
    assert run.script.calls == ["start"]


def interrupt() -> Answer:
    signal.raise_signal(signal.SIGINT)
    return SILENT


@pytest.mark.parametrize(
    ("second", "head"),
    [
        pytest.param(interrupt, FakeHead(), id="Ctrl-C"),
        pytest.param(answer(2), FakeHead(interrupted_at=2), id="Ctrl-C in another thread"),
    ],
)
def test_an_interrupted_job_stops_at_its_next_block(second: Step, head: FakeHead) -> None:
    run = Run(Script([[answer(1), second]], after_stop=Interrupted("stopped at block 2")), head)
    with pytest.raises(Interrupted, match="stopped at block 2"):
        run.render()
    assert run.script.calls == ["start", "stop"], "the engine stays for the next job"


@pytest.mark.parametrize("error", [SystemError("wait returned a result with an exception set"), RuntimeError("?")])
def test_a_signal_that_comes_out_of_ray_as_another_error_stops_the_job(error: Exception) -> None:
    head = FakeHead()

    def wait() -> Answer:
        head.interruption.interrupt()
        raise error

    run = Run(Script([[answer(1), wait]], after_stop=Interrupted("stopped at block 2")), head)
    with pytest.raises(Interrupted, match="stopped at block 2"):
        run.render()
    assert run.script.calls == ["start", "stop"]


@pytest.mark.parametrize("error", [EngineLost("it died"), HeadLost("it died")])
def test_what_a_signal_ended_is_not_started_again(error: Exception) -> None:
    head = FakeHead()

    def wait() -> Answer:
        head.interruption.interrupt()
        raise error

    run = Run(Script([[answer(1), wait]]), head)
    with pytest.raises(KeyboardInterrupt):
        run.render()
    assert (run.script.calls, head.recovered) == (["start"], 0)


def test_an_interrupted_job_may_have_been_at_its_end() -> None:
    assert Run(Script([[interrupt]])).render() == RESULT


@pytest.mark.parametrize(
    "after_stop", [pytest.param(TimeoutError(), id="hangs"), pytest.param(EngineLost("it died"), id="dies")]
)
def test_an_engine_that_does_not_stop_is_ended(after_stop: BaseException) -> None:
    run = Run(Script([[interrupt]], after_stop=after_stop))
    with pytest.raises(Interrupted, match="--resume"):
        run.render()
    assert run.script.calls == ["start", "stop", "end"]

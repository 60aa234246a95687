"""One render on one machine: the block loop with its spool, snapshots, film and clock. No Prefect, no Ray.

A job owns a *work folder* that outlives a crash: `latents.bin` (the *spool*, every block's latents in order),
`blocks.jsonl` (one row of timings a block), `snapshots/`, the growing film, and `live/` when decoding online.
The folder is named after the job's digest by the caller, so a work folder never meets another job.

*Online* decodes each block at once; *offline* spools all latents first and decodes after. Both give the same
latents and the same frames. Resuming starts at the newest snapshot whose latents and frames are on the disk and
repeats at most the blocks after it.
"""

import fcntl
import hashlib
import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from liveavatar.audio.feature_file import FeatureFile
from liveavatar.config import FROM_PORTRAIT
from liveavatar.engine.engine import Block, Engine, Features, Stream, StreamJob
from liveavatar.engine.placement import RankWork
from liveavatar.engine.snapshot import read_snapshot, write_snapshot
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.media.ffmpeg import disk_errors
from liveavatar.media.film import FilmWriter
from liveavatar.media.recording import LiveSound
from liveavatar.pose.track import eyes_ignored
from liveavatar.render.timings import BlockRow, stage_summary, timing_summary
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS

__all__ = [
    "BlockRow",
    "Progress",
    "RenderJob",
    "RenderResult",
    "run_job",
    "stage_summary",
    "timing_summary",
]

log = logging.getLogger(__name__)

SNAPSHOT_BLOCKS = 4  # blocks between snapshots: one film segment
SNAPSHOT_SHARE = 0.03  # most of the running time that snapshots may take
ALONE_SECONDS = 60.0
ALONE_POLL = 0.1
BYTES_PER_MB = 1e6
FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderJob:
    """What to render, as paths, numbers and digests; small enough to send to another process."""

    digest: str  # of everything the latents and frames depend on
    work_dir: Path
    image: Path  # picture already cropped to the output size
    features: Path
    audio: Path  # sound of the film
    prompt: str
    num_frames: int
    seed: int = 420
    sample_steps: int = 4
    infer_frames: int = 48
    pose: Path | None = None  # frame track float32 [F, 3, 4 or 6], .npy, see `liveavatar.pose`; None: moves by itself
    portrait_pose: tuple[float, ...] | None = None  # yaw, pitch, roll of `image`, radians; None: read off it if needed
    online: bool = False
    kv_cache_dtype: str = "auto"  # as in `StreamJob`
    resume: bool = False
    live: bool = False  # the sound still arrives: `audio` is the folder of a `Recording`, there are no features yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a job is."""

    phase: str  # "render" or "decode"
    done: int  # blocks
    total: int
    fps: float  # frames per second since the job began or was resumed


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderResult:
    """What a finished job left in its work folder."""

    video: Path
    live_dir: Path | None
    latents: Path
    latents_sha256: str
    latents_shape: list[int]  # [blocks, C, 3, h, w], float32 little-endian
    num_frames: int
    rows: list[BlockRow]
    first_block: int  # where this run began: 0, or the snapshot it resumed from
    render_s: float  # of this run
    device: str
    dtype: str
    peak_rss_mb: float
    peak_gpu_mb: float | None
    stages: tuple[RankWork, ...]
    notes: tuple[str, ...] = ()  # what whoever asked should know of how it was made


def run_job(
    engine: Engine,
    job: RenderJob,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RenderResult:
    """Render a job to the end.

    Args:
        engine: a loaded model.
        job: what to render.
        on_progress: called after every block.
        should_stop: asked before every block.

    Raises:
        Interrupted: `should_stop` said so; the work folder can be resumed.
        InputError: the job does not fit the model, or the snapshots belong to another job.
        CapacityError: the disk is full.
    """
    with engine.job(), disk_errors(job.work_dir), _alone(job.work_dir):
        if not job.resume:
            shutil.rmtree(job.work_dir, ignore_errors=True)
        job.work_dir.mkdir(parents=True, exist_ok=True)
        done = _finished(job)
        if done is not None:
            return done
        if job.live:
            from liveavatar.render.pipe import PipeRun

            return PipeRun(engine, job, on_progress, should_stop).finish()
        return RenderRun(engine, job, on_progress, should_stop).finish()


@contextmanager
def _alone(work_dir: Path) -> Iterator[None]:
    """Hold the work folder. When a driver is killed its engine may write on for a second or two: wait for its end.

    Raises:
        CapacityError: another process keeps the folder for over `ALONE_SECONDS`.
    """
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with work_dir.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + ALONE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as e:
                if time.monotonic() > deadline:
                    raise CapacityError(
                        f"another process has been rendering this job for over {ALONE_SECONDS:.0f} s; "
                        "wait for it, or end it with `liveavatar stop`"
                    ) from e
                time.sleep(ALONE_POLL)
        yield


def _keep(job: RenderJob, result: RenderResult) -> None:
    """Note what a finished job made: whoever asked may be gone before it hears of it."""
    path = job.work_dir / FINISHED
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump({"job": job.digest, **asdict(result)}, file, default=str)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _finished(job: RenderJob) -> RenderResult | None:
    """What an earlier run of this job made, when it came to its end and all is there; nothing is rendered then."""
    try:
        facts = json.loads((job.work_dir / FINISHED).read_text())
        made = job.work_dir / "latents.bin"
        whole = facts.pop("job") == job.digest and (facts["live_dir"] is not None) == job.online
        if not whole or not Path(facts["video"]).is_file() or _sha256(made) != facts["latents_sha256"]:
            return None
        facts |= {"video": Path(facts["video"]), "latents": made, "first_block": facts["latents_shape"][0]}
        facts["live_dir"] = Path(facts["live_dir"]) if facts["live_dir"] else None
        facts["notes"] = tuple(facts["notes"])
        facts["rows"] = [BlockRow(**row) for row in facts["rows"]]
        facts["stages"] = tuple(RankWork(**{**s, "steps": tuple(s["steps"])}) for s in facts["stages"])
        return RenderResult(**facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RenderRun:
    """The state of one `run_job`."""

    def __init__(
        self, engine: Engine, job: RenderJob, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
        self.engine, self.job, self.on_progress, self.should_stop = engine, job, on_progress, should_stop
        if engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(engine.device)
        self.began = time.perf_counter()
        self.notes: list[str] = []
        image = np.asarray(Image.open(job.image).convert("RGB"))
        pose = None if job.pose is None else self._pose(job.pose)
        features, num_frames = self._features()
        self.stream: Stream = engine.open(
            StreamJob(
                image=image,
                prompt=job.prompt,
                features=features,
                num_frames=num_frames,
                seed=job.seed,
                sample_steps=job.sample_steps,
                infer_frames=job.infer_frames,
                pose=pose,
                portrait_pose=None if pose is None else self._portrait_pose(image, pose),
                kv_cache_dtype=job.kv_cache_dtype,
            )
        )
        height, width, _ = image.shape
        self.block_shape = (engine.config.dit.in_dim, BLOCK_LATENTS, self.stream.h, self.stream.w)
        self.sink = FilmWriter(
            job.work_dir / "video.mp4",
            size=(width, height),
            segment_frames=self.segment_frames,
            live_dir=job.work_dir / "live" if job.online else None,
            audio=self._sound(),
        )
        self.spool_path = job.work_dir / "latents.bin"
        self.rows_path = job.work_dir / "blocks.jsonl"
        self.rows: list[BlockRow] = []
        self.digest = hashlib.sha256()
        self.snapshot_s = 0.0
        self.before_s = 0.0  # seconds spent by runs before this one

    segment_frames = SNAPSHOT_BLOCKS * BLOCK_FRAMES

    def _features(self) -> tuple[Features, int]:
        """What drives the mouth, and the number of frames."""
        return FeatureFile(self.job.features), self.job.num_frames

    def _pose(self, path: Path) -> np.ndarray:
        """The frame track of a file; `notes` say what of its eyes the model is not told."""
        track: np.ndarray = np.load(path)
        ignored = eyes_ignored(self.engine.config, track)
        if ignored:
            self._note(f"the model {self.engine.config.name} is not told {ignored} of the pose track, and ignores it")
        return track

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.warning("%s", text)

    def _portrait_pose(self, image: np.ndarray, track: np.ndarray) -> np.ndarray | None:
        """Angles [3] of the picture's head, where the model is told the track [F, 3, 4 or 6] against them.

        Without a face in the picture they are those of the track's mean, which `notes` then say.
        """
        if self.engine.config.pose_origin != FROM_PORTRAIT:
            return None
        if self.job.portrait_pose is not None:
            return np.array(self.job.portrait_pose, np.float32)
        from liveavatar.pose.files import portrait_pose

        found = portrait_pose(image)
        if found is not None:
            return found
        self._note("no face is found in the portrait; its head pose is taken for the mean of the given poses")
        return track[:, :3].mean(0)

    def _sound(self) -> Path | LiveSound:
        """The film's sound while it is made."""
        return self.job.audio

    def _whole_sound(self) -> Path | None:
        """The film's sound at its end, if that is another."""
        return None

    def _blocks(self) -> Generator[Block, None, None]:
        return self.stream.blocks(decode=self.job.online, snapshot_every=SNAPSHOT_BLOCKS)

    def _total(self) -> int:
        """Blocks of the job."""
        return self.stream.num_blocks

    def _delay_ms(self, index: int) -> float | None:
        """Since the sound of a block was heard."""
        return None

    def finish(self) -> RenderResult:
        self._restore()
        first = self.stream.position
        with self.sink:
            self._render(first)
            if not self.job.online:
                self._decode_spool()
            self.sink.close(self._whole_sound())
        result = self._result(first)
        _keep(self.job, result)
        return result

    def _result(self, first: int) -> RenderResult:
        cuda = self.engine.device.type == "cuda"
        return RenderResult(
            video=self.sink.path,
            live_dir=self.job.work_dir / "live" if self.job.online else None,
            latents=self.spool_path,
            latents_sha256=self.digest.hexdigest(),
            latents_shape=[len(self.rows), *self.block_shape],
            num_frames=self.sink.num_frames,
            rows=self.rows,
            first_block=first,
            render_s=time.perf_counter() - self.began,
            device=str(self.engine.device),
            dtype=str(self.engine.dtype).removeprefix("torch."),
            peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BYTES_PER_MB,
            peak_gpu_mb=torch.cuda.max_memory_allocated(self.engine.device) / BYTES_PER_MB if cuda else None,
            stages=self.engine.stages(self.job.sample_steps),
            notes=tuple(self.notes),
        )

    def _restore(self) -> None:
        """Go on from the newest snapshot that spool and film reach, or begin anew."""
        tensors = read_snapshot(self.job.work_dir / "snapshots", self.job.digest) if self.job.resume else None
        if tensors is None:
            return self._begin("nothing to resume" if self.job.resume else "")
        position = int(tensors["position"])
        rows = self.rows_path.read_bytes().splitlines()[:position] if self.rows_path.exists() else []
        spooled = self.spool_path.stat().st_size if self.spool_path.exists() else 0
        on_film = self.sink.durable_frames if self.job.online else position * BLOCK_FRAMES
        if len(rows) < position or spooled < position * self._block_bytes or on_film < position * BLOCK_FRAMES:
            return self._begin(f"the work folder does not reach block {position} of its snapshot")
        os.truncate(self.spool_path, position * self._block_bytes)
        self.rows_path.write_bytes(b"".join(row + b"\n" for row in rows))
        self.before_s = BlockRow(**json.loads(rows[-1])).ready_s if rows else 0.0
        with self.spool_path.open("rb") as spool:
            while block := spool.read(self._block_bytes):
                self.digest.update(block)
        self.stream.restore(tensors)
        if self.job.online and position:
            self.sink.resume_at(position * BLOCK_FRAMES)
        log.info("resuming at block %d of %d", position, self.stream.num_blocks)
        return None

    def _begin(self, reason: str) -> None:
        if reason:
            log.warning("%s; starting at block 0", reason)
        for path in (self.spool_path, self.rows_path, self.job.work_dir / FINISHED):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.job.work_dir / "snapshots", ignore_errors=True)

    def _written_rows(self) -> list[BlockRow]:
        return [BlockRow(**json.loads(row)) for row in self.rows_path.read_bytes().splitlines()]

    @property
    def _block_bytes(self) -> int:
        return 4 * int(np.prod(self.block_shape))

    def _render(self, first: int) -> None:
        started = time.perf_counter()
        with closing(self._blocks()) as blocks, self.spool_path.open("ab") as spool, self.rows_path.open("a") as rows:
            for block in blocks:
                latents = block.latents.numpy().astype("<f4", copy=False).tobytes()
                self.digest.update(latents)
                spool.write(latents)
                if block.frames is not None:
                    self.sink.write(block.frames)
                now = time.perf_counter()
                row = BlockRow(
                    block=block.index,
                    step_ms=[1000 * s for s in block.step_s],
                    decode_ms=1000 * block.decode_s,
                    block_ms=1000 * (now - started),
                    ready_s=self.before_s + now - self.began,
                    wait_ms=[1000 * s for s in block.wait_s],
                    delay_ms=self._delay_ms(block.index),
                )
                started = now
                rows.write(json.dumps(asdict(row)) + "\n")
                done = block.index + 1
                if block.state is not None and done < self._total():
                    self._snapshot(done, block.state, (spool.flush, rows.flush), spool.fileno())
                self._report("render", done, done - first)
                self._pause_if_asked(done)
        self.rows = self._written_rows()  # not kept meanwhile: a stream may take days
        assert len(self.rows) == self._total()

    def _snapshot(
        self, position: int, state: dict[str, torch.Tensor], flushes: tuple[Callable[[], None], ...], spool: int
    ) -> None:
        """Write a snapshot unless snapshots already took more than their share of the time."""
        started = time.perf_counter()
        if self.snapshot_s > SNAPSHOT_SHARE * (started - self.began):
            return
        for flush in flushes:
            flush()
        os.fsync(spool)
        write_snapshot(self.job.work_dir / "snapshots", position, self.job.digest, state)
        self.snapshot_s += time.perf_counter() - started

    def _decode_spool(self) -> None:
        """Second pass of an offline job: latents from the spool to frames."""
        total, frames_left = self.stream.num_blocks, self.job.num_frames
        began = time.perf_counter()
        with self.spool_path.open("rb") as spool:
            for index in range(total):
                latents = np.frombuffer(spool.read(self._block_bytes), "<f4").reshape(1, *self.block_shape)
                started = time.perf_counter()
                frames = self.stream.decode(torch.from_numpy(latents.astype(np.float32)), index)[:frames_left]
                decode_ms = 1000 * (time.perf_counter() - started)
                self.sink.write(frames)
                frames_left -= len(frames)
                row = self.rows[index]
                self.rows[index] = replace(
                    row,
                    decode_ms=decode_ms,
                    block_ms=row.block_ms + decode_ms,
                    ready_s=self.before_s + time.perf_counter() - self.began,
                )
                fps = (index + 1) * BLOCK_FRAMES / (time.perf_counter() - began)
                self.on_progress(Progress(phase="decode", done=index + 1, total=total, fps=fps))
                self._pause_if_asked(index + 1)

    def _pause_if_asked(self, done: int) -> None:
        if done < self.stream.num_blocks and self.should_stop():
            raise Interrupted(
                f"stopped at block {done} of {self.stream.num_blocks}; run the same command with --resume to go on"
            )

    def _report(self, phase: str, done: int, since: int) -> None:
        fps = since * BLOCK_FRAMES / (time.perf_counter() - self.began)
        self.on_progress(Progress(phase=phase, done=done, total=self._total(), fps=fps))

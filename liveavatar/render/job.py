"""One render on one machine: the block loop with its spool, snapshots, video and clock. No Prefect, no Ray.

A job owns a *work folder* that outlives a crash: the *spool* (`liveavatar.render.spool`), `snapshots/`, the growing
video, and `live/` when decoding online. The caller names the folder after the job's digest, so a work folder never
meets another job.

*Online* decodes each block at once; *offline* spools all latents first and decodes after. Both give the same
latents and the same frames. Resuming starts at the newest snapshot whose latents and frames are on the disk and
repeats at most the blocks after it.
"""

import logging
import resource
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from liveavatar.audio.growing_track import ENDLESS
from liveavatar.config import FRAME_FACE
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import Block, StreamJob
from liveavatar.engine.memory import MemoryReading, read_memory
from liveavatar.engine.placement import RankWork
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.snapshot import drop_newer_snapshots, read_snapshot, write_snapshot
from liveavatar.engine.stream import Stream
from liveavatar.errors import Interrupted
from liveavatar.files import disk_errors, remove_temporaries
from liveavatar.media.film import FilmWriter
from liveavatar.media.lips import Lips
from liveavatar.media.opening import OPENING, morphed, opening_share
from liveavatar.media.origin import origin_mark
from liveavatar.media.paste import FacePaste
from liveavatar.media.sizes import Box
from liveavatar.render.alone import alone
from liveavatar.render.collapse import Collapse, CollapseWatch, is_watched
from liveavatar.render.pose import read_pose
from liveavatar.render.sound import SNAPSHOT_BLOCKS, SoundSource
from liveavatar.render.spool import Spool, read_finished, write_finished
from liveavatar.render.timings import BlockRow
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, FPS, count_blocks

log = logging.getLogger(__name__)

SNAPSHOT_SHARE = 0.03  # most of the running time that snapshots may take
BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True)
class CanvasPicture:
    """The user's picture, into which the rendered face is pasted."""

    path: Path  # at the video's size
    box: Box  # of the model's picture in it
    eyes: tuple[float, float, float]  # x, y of their middle and their distance, pixels of the model's picture
    lips: Lips | None = None  # parted in it, and shut in the model's picture


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderJob:
    """One render in paths, numbers and digests; small enough to send to another process."""

    digest: str  # of everything the latents and frames depend on
    work_dir: Path
    image: Path  # picture as the model takes it
    sound: SoundSource
    settings: RenderSettings
    pose: Path | None = None  # .npy, see `liveavatar.render.pose`; None: moves by itself
    portrait_pose: tuple[float, ...] | None = None  # yaw, pitch, roll of `image`, radians; None: read off it if needed
    canvas: CanvasPicture | None = None  # None: the video is what the model renders
    online: bool = False
    rings_on_host: bool = False  # see `liveavatar.engine.job.StreamJob`
    resume: bool = False
    ignore_collapse: bool = False  # render to the end even if the picture falls apart
    origin: str | None = None  # digest that marks the video, see `liveavatar.media.origin`; None: no mark


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a job."""

    phase: str  # "render" or "decode"
    done: int  # blocks
    total: int
    fps: float  # frames per second since the job began or was resumed
    memory: tuple[MemoryReading, ...] = ()  # of each rank


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderResult:
    """Files and facts of a finished job; the files lie in its work folder."""

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
    works: tuple[RankWork, ...]  # of its ranks
    notes: tuple[str, ...] = ()  # remarks for the user on how it was made
    collapse: Collapse | None = None  # why the video ends before its sound


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
        Interrupted: `should_stop` returned True; the work folder can be resumed.
        InputError: the job does not fit the model, or the snapshots belong to another job.
        CapacityError: the disk is full.
    """
    with engine.job(), disk_errors(job.work_dir), alone(job.work_dir):
        if not job.resume:
            shutil.rmtree(job.work_dir, ignore_errors=True)
        job.work_dir.mkdir(parents=True, exist_ok=True)
        for folder in (job.work_dir, job.work_dir / "snapshots", job.work_dir / "live"):
            remove_temporaries(folder)
        damage: list[str] = []
        result = _finished_result(job, damage.append)
        if result is not None:
            return result
        run = RenderRun(engine, job, on_progress, should_stop)
        for text in damage:
            run.note(text)
        return run.finish()


def _finished_result(job: RenderJob, warn: Callable[[str], None]) -> RenderResult | None:
    """Read the result of an earlier run of this job that came to its end; None when any file is missing or damaged."""
    facts = read_finished(job.work_dir, job.digest, warn)
    if facts is None or (facts["live_dir"] is not None) != job.online or not Path(facts["video"]).is_file():
        return None
    facts |= {"first_block": facts["latents_shape"][0], "notes": tuple(facts["notes"])}
    facts |= {name: Path(facts[name]) for name in ("video", "latents", "live_dir") if facts[name]}
    facts["collapse"] = facts["collapse"] and Collapse(**facts["collapse"])
    facts["rows"] = [BlockRow(**row) for row in facts["rows"]]
    facts["works"] = tuple(RankWork(**{**work, "steps": tuple(work["steps"])}) for work in facts["works"])
    return RenderResult(**facts)


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
        self.image = image = np.asarray(Image.open(job.image).convert("RGB"))
        pose = read_pose(engine.config, job.pose, image, job.portrait_pose, self.note)
        self.sound = job.sound.open(engine.config)
        num_frames = self.sound.num_frames
        self.stream: Stream = engine.open(
            StreamJob(
                image=image,
                settings=job.settings,
                features=self.sound.features,
                num_frames=ENDLESS if num_frames is None else num_frames,
                pose=pose.track,
                portrait_pose=pose.portrait,
                skeleton=pose.skeleton,
                rings_on_host=job.rings_on_host,
            )
        )
        self.paste = None if job.canvas is None else self._paste(job.canvas)
        height, width, _ = image.shape if self.paste is None else self.paste.canvas.shape
        self.video = FilmWriter(
            job.work_dir / "video.mp4",
            size=(width, height),
            segment_frames=self.sound.segment_frames,
            live_dir=job.work_dir / "live" if job.online else None,
            audio=self.sound.audio,
            ledger=job.work_dir / "segments.jsonl",
            comment=None if job.origin is None else origin_mark(job.origin),
        )
        self.spool = Spool(job.work_dir, (engine.config.dit.in_dim, BLOCK_LATENTS, self.stream.h, self.stream.w))
        watched = is_watched(num_frames, job.ignore_collapse)
        self.watch = CollapseWatch(image, job.work_dir / "collapse.jsonl") if watched else None
        self.collapse: Collapse | None = None
        self.rows: list[BlockRow] = []
        self.memory: tuple[MemoryReading, ...] = ()  # of each rank after the last block; this process is the last rank
        self.snapshot_s = 0.0
        self.before_s = 0.0  # seconds spent by runs before this one

    def _paste(self, canvas: CanvasPicture) -> FacePaste:
        picture = np.asarray(Image.open(canvas.path).convert("RGB"))
        return FacePaste(picture, canvas.box, self.engine.still_frame(self.stream), canvas.eyes, canvas.lips)

    def _write(self, frames: np.ndarray) -> None:
        """Write frames of the model to the video, which begins with the portrait where the model frames the face."""
        index = self.video.num_frames
        if self.watch is not None:
            self.collapse = self.watch.add(frames, index)
        if self.paste is not None:
            for t, frame in enumerate(frames, index):
                self.video.write(self.paste.compose(frame, opening_share(t))[None])
            return
        if self.job.pose is None and self.engine.config.framing == FRAME_FACE and index < OPENING:
            begun = [
                morphed(self.image, frame, opening_share(t)) for t, frame in enumerate(frames[: OPENING - index], index)
            ]
            frames = np.concatenate([begun, frames[OPENING - index :]])
        self.video.write(frames)

    def note(self, text: str) -> None:
        """Log a remark for the user, and repeat it in the result."""
        self.notes.append(text)
        log.warning("%s", text)

    def finish(self) -> RenderResult:
        """Render from block 0 or the newest usable snapshot to the end."""
        self._restore()
        first = self.stream.position
        with self.video:
            self._render(first)
            if not self.job.online:
                self._decode_spool()
            if self.watch is not None:
                self.collapse = self.collapse or self.watch.take()
            if self.collapse is not None:
                self._keep_good(self.collapse)
            self.video.close(self.sound.final_audio(self.job.work_dir))
        result = self._result(first)
        live = [] if result.live_dir is None else [p for p in sorted(result.live_dir.iterdir()) if p.is_file()]
        write_finished(self.job.work_dir, self.job.digest, asdict(result), [result.video, *live])
        return result

    def _result(self, first: int) -> RenderResult:
        cuda = self.engine.device.type == "cuda"
        return RenderResult(
            video=self.video.path,
            live_dir=self.job.work_dir / "live" if self.job.online else None,
            latents=self.spool.latents_path,
            latents_sha256=self.spool.sha256,
            latents_shape=[len(self.rows), *self.spool.block_shape],
            num_frames=self.video.num_frames,
            rows=self.rows,
            first_block=first,
            render_s=time.perf_counter() - self.began,
            device=str(self.engine.device),
            dtype=str(self.engine.dtype).removeprefix("torch."),
            peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BYTES_PER_MB,
            peak_gpu_mb=torch.cuda.max_memory_allocated(self.engine.device) / BYTES_PER_MB if cuda else None,
            works=self.engine.works(self.job.settings.sample_steps),
            notes=tuple(self.notes),
            collapse=self.collapse,
        )

    def _keep_good(self, collapse: Collapse) -> None:
        """Cut video and latents off where the picture fell apart."""
        frames = collapse.frame // self.sound.segment_frames * self.sound.segment_frames
        self.video.cut(frames)
        self.spool.truncate(frames // BLOCK_FRAMES)
        self.rows = self.rows[: frames // BLOCK_FRAMES]
        self.note(f"{collapse}; the video ends at {frames / FPS:.0f} s (--ignore_collapse renders the rest)")

    def _restore(self) -> None:
        """Go on from the newest snapshot that spool and video reach, or begin anew."""
        tensors = None
        if self.job.resume:
            tensors = read_snapshot(self.job.work_dir / "snapshots", self.job.digest, self._reach(), self.note)
        if tensors is None:
            self._begin("nothing to resume" if self.job.resume else "")
        else:
            self._resume(int(tensors["position"]), tensors)
        if self.watch is not None:
            self.watch.begin(self.video.num_frames)
        self.sound.start(self.stream.position)

    def _reach(self) -> int:
        """Count the whole blocks in the spool, and in the video if it grows along."""
        blocks = self.spool.num_blocks(self.note)
        return min(blocks, self.video.durable_frames // BLOCK_FRAMES) if self.job.online else blocks

    def _resume(self, position: int, tensors: dict[str, torch.Tensor]) -> None:
        drop_newer_snapshots(self.job.work_dir / "snapshots", position)
        self.spool.truncate(position)
        self.before_s = self.spool.rows()[-1].ready_s
        self.stream.restore(tensors)
        if self.job.online:
            self.video.resume_at(position * BLOCK_FRAMES)
        log.info("resuming at block %d", position)

    def _begin(self, reason: str) -> None:
        if reason:
            log.warning("%s; starting at block 0", reason)
        self.spool.clear()
        shutil.rmtree(self.job.work_dir / "snapshots", ignore_errors=True)

    def _blocks(self) -> Generator[Block, None, None]:
        """Yield the blocks of the job; with sound from a pipe, frames end with the sound."""
        if self.sound.num_frames is not None:
            yield from self.stream.blocks(decode=self.job.online, snapshot_every=SNAPSHOT_BLOCKS)
            return
        with closing(self.stream.blocks(snapshot_every=SNAPSHOT_BLOCKS, ready=self._ready)) as blocks:
            for block in blocks:
                assert block.frames is not None
                end = self.sound.num_frames
                left = BLOCK_FRAMES if end is None else end - block.index * BLOCK_FRAMES
                yield replace(block, frames=block.frames[:left])

    def _ready(self, index: int) -> bool | None:
        has_sound = self.sound.ready(index)
        if has_sound is None and self.should_stop():
            raise Interrupted("stopped while waiting for sound")
        return has_sound

    @property
    def _total(self) -> int:
        """Blocks of the job, as far as its sound tells."""
        frames = self.sound.num_frames
        return self.stream.position + 1 if frames is None else count_blocks(frames)

    def _render(self, first: int) -> None:
        started = time.perf_counter()
        with closing(self._blocks()) as blocks, self.spool.appending():
            for block in blocks:
                if block.frames is not None:
                    self._write(block.frames)
                now = time.perf_counter()
                self.memory = block.memory
                self.spool.append(block.latents.numpy(), self._row(block, now - started, now))
                started = now
                done = block.index + 1
                if block.state is not None and done < self._total:
                    self._snapshot(done, block.state)
                self._report("render", done, done - first)
                if self.collapse is not None:
                    break
                self._pause_if_requested(done)
        self.rows = self.spool.rows()  # not kept meanwhile: a stream may take days
        assert self.collapse is not None or len(self.rows) == self._total

    def _row(self, block: Block, block_s: float, now: float) -> BlockRow:
        return BlockRow(
            block=block.index,
            step_ms=[1000 * s for s in block.step_s],
            decode_ms=1000 * block.decode_s,
            block_ms=1000 * block_s,
            ready_s=self.before_s + now - self.began,
            wait_ms=[1000 * s for s in block.wait_s],
            delay_ms=self.sound.delay_ms(block.index),
            memory=[list(astuple(reading)) for reading in block.memory],
        )

    def _snapshot(self, position: int, state: dict[str, torch.Tensor]) -> None:
        """Write a snapshot unless snapshots already took more than their share of the time."""
        started = time.perf_counter()
        if self.snapshot_s > SNAPSHOT_SHARE * (started - self.began):
            return
        self.spool.sync()
        write_snapshot(self.job.work_dir / "snapshots", position, self.job.digest, state)
        self.snapshot_s += time.perf_counter() - started

    def _decode_spool(self) -> None:
        """Run the second pass of an offline job: latents from the spool to frames."""
        frames_left = self.sound.num_frames
        assert frames_left is not None
        began = time.perf_counter()
        for index, latents in enumerate(self.spool.latents()):
            started = time.perf_counter()
            frames = self.stream.decode(torch.from_numpy(latents), index)[:frames_left]
            decode_ms = 1000 * (time.perf_counter() - started)
            self._write(frames)
            frames_left -= len(frames)
            row, reading = self.rows[index], read_memory(self.engine.device)
            self.rows[index] = replace(
                row,
                memory=[*row.memory[:-1], list(astuple(reading))],
                decode_ms=decode_ms,
                block_ms=row.block_ms + decode_ms,
                ready_s=self.before_s + time.perf_counter() - self.began,
            )
            fps = (index + 1) * BLOCK_FRAMES / (time.perf_counter() - began)
            memory = (*self.memory[:-1], reading)
            self.on_progress(Progress(phase="decode", done=index + 1, total=self._total, fps=fps, memory=memory))
            if self.collapse is not None:
                break
            self._pause_if_requested(index + 1)

    def _pause_if_requested(self, done: int) -> None:
        if done < self._total and self.should_stop():
            raise Interrupted(f"stopped at block {done} of {self._total}; run the same command with --resume to go on")

    def _report(self, phase: str, done: int, since: int) -> None:
        fps = since * BLOCK_FRAMES / (time.perf_counter() - self.began)
        self.on_progress(Progress(phase=phase, done=done, total=self._total, fps=fps, memory=self.memory))

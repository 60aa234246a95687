"""Prefect shell of `liveavatar.render.pipe`: sound from a pipe is recorded and rendered as it arrives.

This process listens; the engine renders from the recording, which is on the disk and so survives the engine. The
listener stays at most `AHEAD_SECONDS` before the video: a faster writer waits at the pipe, so that neither memory nor
delay grows.
"""

import contextlib
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from liveavatar import paths
from liveavatar.checkpoints.directory import read_config
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.files import disk_errors, plain
from liveavatar.media.pcm import SECOND_BYTES, PcmPipe
from liveavatar.timing import BLOCK_SECONDS, SAMPLE_RATE
from tasks.enhance import CLEANED, CODE, PACKAGES, WORDS
from tasks.features import PACKAGES as FEATURE_PACKAGES
from tasks.ingest import PORTRAIT, RAW, read_wav
from tasks.render import (
    ProgressBoard,
    RenderOptions,
    announce_playlist,
    canvas_parts,
    describe_job,
    engine_spec,
    is_pasted,
    job_packages,
    move_products,
    run_on_engine,
)
from tasks.render_code import job_code, settings_part
from tasks.stage import cached, stage
from tasks.store import machine
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

if TYPE_CHECKING:
    from liveavatar.render.job import Progress

log = logging.getLogger(__name__)

AHEAD_SECONDS = 4.0  # of sound read but not in the video
WAIT_SECONDS = 0.02
LEFT_OUT = "sound from a pipe is rendered as it arrives: neither cleaned nor levelled"


class Listener(threading.Thread):
    """Writes the sound of a pipe into a recording; a thread of the driver."""

    def __init__(self, pipe: PcmPipe, max_seconds: float | None) -> None:
        super().__init__(daemon=True, name="listener")
        self.pipe, self.max_bytes = pipe, None if max_seconds is None else round(max_seconds * SECOND_BYTES)
        self.token = secrets.token_hex(16)
        self.folder = paths.work() / f"heard-{self.token}"
        self.rendered_s = 0.0  # of the video
        self.error: OSError | None = None
        self._stopped = threading.Event()
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True)
            (self.folder / "sound.pcm").touch()

    def run(self) -> None:
        """Listen to the end."""
        written = 0
        try:
            with (self.folder / "sound.pcm").open("wb", buffering=0) as out:
                for chunk in self.pipe.chunks(self._stopped.is_set):
                    rest = chunk if self.max_bytes is None else chunk[: self.max_bytes - written]
                    written += out.write(rest)
                    if written == self.max_bytes:
                        break
                    while written > (self.rendered_s + AHEAD_SECONDS) * SECOND_BYTES and not self._stopped.is_set():
                        time.sleep(WAIT_SECONDS)
        except OSError as e:
            self.error = e
        (self.folder / "end").touch()

    def following(self, board: ProgressBoard) -> Callable[["Progress"], None]:
        """Make a progress callback that also lets the pipe go on."""

        def follow(progress: "Progress") -> None:
            self.rendered_s = progress.done * BLOCK_SECONDS
            board.show(progress)

        return follow

    def stop(self) -> None:
        """Stop listening."""
        self._stopped.set()

    def keep(self) -> Path:
        """Write the sound of an interrupted render to a file that can be rendered."""
        from liveavatar.media.recording import Recording

        self.stop()
        self.join()
        return Recording(self.folder).write_wav(self.folder / "heard.wav")


@stage("render")
def render_pipe(
    listener: Listener,
    options: RenderOptions,
    model_dir: Path,
    model_digest: str,
    portrait: Entry,
    replan: Callable[[int], RenderOptions] | None = None,
) -> Entry:
    """Render the sound of a listener; the entry holds the files of `tasks.render.render` and cleaned.wav.

    Args:
        listener: to the pipe.
        options: settings of the render.
        model_dir, model_digest: the model.
        portrait: entry of the portrait.
        replan: as in `tasks.render.render`.

    Raises:
        Interrupted: Ctrl-C; names a file with the sound up to then.
    """
    config = read_config(model_dir)
    parts = {
        "pipe": listener.token,  # no two pipes carry the same sound
        "settings": settings_part(options.settings, config),
        "model": model_digest,
        "portrait": portrait.files[PORTRAIT],
        **canvas_parts(portrait),
        "machine": machine.signature(),
    }
    code = job_code(
        config, options.settings, offload=options.offload, piped=True, pasted=is_pasted(portrait),
        on_gpu=bool(machine.accelerators()),
    )  # fmt: skip
    packages = (*job_packages(code), *FEATURE_PACKAGES)
    key = stage_key("render", parts, code.modules, packages, code.left_out)

    def make(folder: Path) -> Values:
        from liveavatar.media.recording import Recording
        from liveavatar.render.pipe import PipeSound

        job = describe_job(key, options, portrait, PipeSound(folder=listener.folder, model_dir=model_dir))
        announce_playlist(job.work_dir)
        try:
            spec = engine_spec(model_dir, model_digest, options)
            outcome = run_on_engine(spec, job, listener.following(ProgressBoard()), replan)
        except Interrupted as e:
            raise Interrupted(
                f"stopped; what was heard until then is in {listener.keep()}: render that file to have its video"
            ) from e
        finally:
            listener.stop()
        if listener.error is not None:
            raise CapacityError(
                f"{listener.folder}: the sound cannot be written ({listener.error.strerror}); free some space"
            ) from listener.error
        Recording(listener.folder).write_wav(folder / CLEANED)
        move_products(outcome.result, folder)
        for done in (job.work_dir, listener.folder):
            shutil.rmtree(done, ignore_errors=True)
        return outcome.facts()

    return cached(key, make)


@stage("enhance")
def transcribe(rendered: Entry, whisper: str) -> Entry:
    """Transcribe and measure the sound of a rendered pipe; cleaned.wav is the sound as it came.

    The entry is also that of the sound: `seconds` and raw.wav.
    """

    def make(folder: Path) -> Values:
        from liveavatar.audio import enhance as library

        sound = read_wav(rendered.path(CLEANED))
        enhanced = library.enhance(sound, denoise="off", whisper=whisper)
        shutil.copyfile(rendered.path(CLEANED), folder / CLEANED)
        shutil.copyfile(rendered.path(CLEANED), folder / RAW)
        library.write_words(folder / WORDS, enhanced)
        unchanged = {"reason": LEFT_OUT, "loudness_after": enhanced.verdict.get("loudness_before")}
        return plain(
            {
                "text": enhanced.text,
                "language": enhanced.language,
                "verdict": enhanced.verdict | unchanged,
                "candidates": enhanced.candidates,
                "num_samples": len(sound),
                "seconds": len(sound) / SAMPLE_RATE,
            }
        )

    inputs = {"sound": rendered.files[CLEANED], "denoise": "as it came", "whisper": whisper}
    return cached(stage_key("enhance", inputs, CODE, PACKAGES), make)


def discard(listener: Listener) -> None:
    """Delete a recording that was not rendered."""
    listener.stop()
    with contextlib.suppress(OSError):
        shutil.rmtree(listener.folder)

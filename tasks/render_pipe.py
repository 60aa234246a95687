"""Prefect shell of `liveavatar.render.pipe`: sound from a pipe is recorded and rendered as it arrives.

This process listens; the engine renders from the recording, which is on the disk and so survives the engine. The
listener stays at most `AHEAD_SECONDS` before the film: whoever speaks faster waits at the pipe, so that neither
memory nor delay grows.
"""

import contextlib
import logging
import secrets
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path

from liveavatar import paths
from liveavatar.audio.encoders import encoder_kind
from liveavatar.checkpoints.directory import read_config
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.files import disk_errors, plain
from liveavatar.media.pcm import SECOND_BYTES, PcmPipe
from liveavatar.timing import BLOCK_SECONDS, SAMPLE_RATE
from tasks.enhance import CLEANED, CODE, PACKAGES, WORDS
from tasks.events import Event, emit
from tasks.ingest import PORTRAIT, RAW, read_wav
from tasks.render import CODE as RENDER_CODE
from tasks.render import LIVE, ProgressBoard, RenderOptions, engine_spec, facts_of, settings_of, take_over
from tasks.render import PACKAGES as RENDER_PACKAGES
from tasks.stage import cached, stage
from tasks.store import machine
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

log = logging.getLogger(__name__)

AHEAD_SECONDS = 4.0  # of sound read but not in the film
WAIT_SECONDS = 0.02
LEFT_OUT = "sound from a pipe is rendered as it arrives: neither cleaned nor levelled"


class Listener(threading.Thread):
    """Writes what a pipe says into a recording; a thread of the driver."""

    def __init__(self, pipe: PcmPipe, max_seconds: float | None) -> None:
        super().__init__(daemon=True, name="listener")
        self.pipe, self.max_bytes = pipe, None if max_seconds is None else round(max_seconds * SECOND_BYTES)
        self.token = secrets.token_hex(16)
        self.folder = paths.work() / f"heard-{self.token}"
        self.rendered_s = 0.0  # of the film
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

    def stop(self) -> None:
        """Hear no more."""
        self._stopped.set()

    def keep(self) -> Path:
        """After an interrupted render: what was heard, as a file that can be rendered."""
        from liveavatar.media.recording import Recording

        self.stop()
        self.join()
        return Recording(self.folder).write_wav(self.folder / "heard.wav")


@stage("render")
def render_live(listener: Listener, options: RenderOptions, model_dir: str, model_digest: str, face: Entry) -> Entry:
    """Render what a listener hears; the entry holds what that of `tasks.render.render` does, and heard.wav.

    Raises:
        Interrupted: Ctrl-C; names the file with what was heard until then.
    """
    inputs = {
        "pipe": listener.token,  # two pipes never say the same
        "options": {k: v for k, v in asdict(options).items() if k not in ("resume", "force", "offload", "ranks")},
        "model": model_digest,
        "portrait": face.files[PORTRAIT],
        "machine": machine.signature(),
    }
    encoder = encoder_kind(read_config(Path(model_dir)).speech).module
    key = stage_key("render", inputs, (*RENDER_CODE, "liveavatar.render.pipe", encoder), RENDER_PACKAGES)

    def make(folder: Path) -> Values:
        return _render(folder, key.digest, listener, options, Path(model_dir), model_digest, face)

    return cached(key, make)


def _render(
    folder: Path, key: str, listener: Listener, options: RenderOptions, model_dir: Path, model_digest: str, face: Entry
) -> Values:
    from liveavatar.media.recording import Recording
    from liveavatar.render.job import Progress, RenderJob
    from liveavatar.render.pipe import PipeSound
    from tasks.cluster.host import host_of

    work = paths.work_folder(key)
    job = RenderJob(
        digest=key,
        work_dir=work,
        image=face.path(PORTRAIT),
        sound=PipeSound(folder=listener.folder),
        settings=settings_of(options),
        online=True,
    )
    engine = host_of(engine_spec(model_dir, model_digest, options))
    board = ProgressBoard()
    load_s: list[float] = []

    def note(progress: Progress) -> None:
        listener.rendered_s = progress.done * BLOCK_SECONDS
        board.show(progress)

    emit(Event(kind="note", stage="render", text=f"live while it renders: {work / LIVE / 'index.m3u8'}"))
    try:
        result = engine.render(job, note, load_s.append)
    except Interrupted as e:
        raise Interrupted(
            f"stopped; what was heard until then is in {listener.keep()}: render that file to have its film"
        ) from e
    finally:
        listener.stop()
    if listener.error is not None:
        raise CapacityError(
            f"{listener.folder}: the sound cannot be written ({listener.error.strerror}); free some space"
        ) from listener.error
    Recording(listener.folder).write_wav(folder / CLEANED)
    take_over(result, folder)
    for done in (work, listener.folder):
        shutil.rmtree(done, ignore_errors=True)
    return facts_of(result, load_s[-1])


@stage("enhance")
def write_down(rendered: Entry, whisper: str) -> Entry:
    """Words and numbers of a sound that was rendered live; cleaned.wav is the sound as it came.

    The entry is also that of the sound: `seconds` and raw.wav.
    """

    def make(folder: Path) -> Values:
        from liveavatar.audio import enhance as library
        from liveavatar.audio import preprocess as files

        sound = read_wav(rendered.path(CLEANED))
        heard = library.enhance(sound, denoise="off", whisper=whisper)
        shutil.copyfile(rendered.path(CLEANED), folder / CLEANED)
        shutil.copyfile(rendered.path(CLEANED), folder / RAW)
        files.write_words(folder / WORDS, heard)
        unchanged = {"reason": LEFT_OUT, "loudness_after": heard.verdict.get("loudness_before")}
        return plain(
            {
                "text": heard.text,
                "language": heard.language,
                "verdict": heard.verdict | unchanged,
                "candidates": heard.candidates,
                "num_samples": len(sound),
                "seconds": len(sound) / SAMPLE_RATE,
            }
        )

    inputs = {"sound": rendered.files[CLEANED], "denoise": "as it came", "whisper": whisper}
    return cached(stage_key("enhance", inputs, CODE, PACKAGES), make)


def forget(listener: Listener) -> None:
    """Drop a recording nobody rendered."""
    listener.stop()
    with contextlib.suppress(OSError):
        shutil.rmtree(listener.folder)

"""The readers that the fuzz run tries: for each kind of file the functions that the command calls with it."""

import contextlib
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import torch

from flows.cli import ask
from flows.job_check import name_outputs
from flows.job_table import read_manifest
from flows.parameters import read_parameters
from liveavatar.audio import ingest
from liveavatar.audio.feature_file import FeatureFile
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import check_model
from liveavatar.checkpoints.lora import parse_lora
from liveavatar.checkpoints.weight_files import read_pickle, read_tensors, shapes_of
from liveavatar.config import MINI
from liveavatar.engine.snapshot import read_snapshot
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.media.ffmpeg import probe_video, read_frames
from liveavatar.media.ledger import SegmentLedger
from liveavatar.media.pcm import PcmPipe
from liveavatar.media.portrait import fit_portrait, load_portrait, target_size
from liveavatar.pose.files import read_pose_csv
from liveavatar.prompt.check import check_prompt
from liveavatar.render.spool import Spool, read_finished
from tasks.run_folder import outputs_of, stages_of
from tests.fuzz.seeds import BLOCK_SHAPE, FILM, JOB, SEGMENTS

MAX_FRAMES = 200  # of a film


def _sound(path: Path) -> None:
    ingest.probe(path)
    ingest.load_audio(path)


def _film(path: Path) -> None:
    probe_video(path)
    for _ in itertools.islice(read_frames(path), MAX_FRAMES):
        pass


def _picture(path: Path) -> None:
    fit_portrait(load_portrait(path), MINI.areas[0], MINI)


def _table(path: Path) -> None:
    jobs = name_outputs(read_manifest(path, {"size": "384*256"}), path.parent / "out")
    for job in jobs[:20]:
        read_parameters(job)


def _pose(path: Path) -> None:
    read_pose_csv(path)


def _model(path: Path) -> None:
    check_model(path.parent)
    config = read_config(path.parent)
    target_size(512, 768, config.areas[0], config)


def _weights(path: Path) -> None:
    if path.suffix == ".pth":
        read_pickle(path)
        return
    shapes_of([path])
    for update in parse_lora(dict(read_tensors([path])), 64.0).values():
        update.apply(torch.zeros(update.b.shape[0], update.a.shape[1]))


def _features(path: Path) -> None:
    FeatureFile(path)[0:5].float().mean()


def _snapshot(path: Path) -> None:
    read_snapshot(path.parent, JOB, warn=_line)


def _record(path: Path) -> None:
    read_finished(path.parent, JOB, _line)
    stages_of(path.parent)
    outputs_of(path.parent)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        ask.why({"out": str(path.parent), "json": False})
    if not all(line.isprintable() for line in shown.getvalue().splitlines()):
        raise AssertionError(f"control characters on the terminal: {shown.getvalue()!r}")


def _work(path: Path) -> None:
    Spool(path.parent, BLOCK_SHAPE).num_blocks(_line)
    SegmentLedger(path.parent / SEGMENTS).whole(path.parent / FILM, [])


def _playlist(path: Path) -> None:
    """Each reader must refuse a list of other files."""
    for reader in (_sound, _film, _picture):
        try:
            reader(path)
        except InputError as e:
            _line(str(e))
        else:
            raise AssertionError("a list of other files was opened")


def _prompt(path: Path) -> None:
    check_prompt(path.read_text("utf-8", "replace"))


def _pipe(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        pipe = PcmPipe.open(file)
        for _ in pipe.chunks(lambda: False):
            if file.tell() >= path.stat().st_size:
                break


READERS: dict[str, Callable[[Path], None]] = {
    "sound": _sound,
    "film": _film,
    "picture": _picture,
    "table": _table,
    "pose": _pose,
    "model": _model,
    "weights": _weights,
    "features": _features,
    "snapshot": _snapshot,
    "record": _record,
    "work": _work,
    "playlist": _playlist,
    "prompt": _prompt,
    "pipe": _pipe,
}
MAX_MESSAGE = 1000  # characters


def read(kind: str, path: Path) -> str:
    """Read a file as the command does.

    Returns:
        "read", or "refused" after an error of ours in one clear line for a user's mistake.

    Raises:
        AssertionError: the message is unclear, or the exit code blames us.
        Exception: any other error, which is a fault.
    """
    try:
        READERS[kind](path)
    except LiveAvatarError as e:
        if not isinstance(e, InputError):
            raise AssertionError(f"{type(e).__name__} with exit code {e.exit_code}: {e}") from e
        _line(str(e).replace(str(path.parent), ""))
        return "refused"
    return "read"


def _line(message: str) -> None:
    if not message or not message.isprintable() or len(message) > MAX_MESSAGE:
        raise AssertionError(f"not one clear line: {message[:MAX_MESSAGE]!r}")

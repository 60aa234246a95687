"""Every odd input gets its right answer, from the functions that the command calls."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.job_table import read_manifest
from liveavatar.audio.ingest import load_audio, probe
from liveavatar.media.portrait import load_portrait
from liveavatar.paths import DATA
from liveavatar.pose.files import check_pose, read_pose, read_pose_csv
from tests.odd_inputs import films, pictures, sounds, tables
from tests.odd_inputs.case import Case

pytestmark = pytest.mark.nightly


def read_sound(path: Path) -> Any:
    """Read a sound as `tasks.inputs.check_inputs` does."""
    probe(path)
    return load_audio(path)


def read_film(path: Path) -> Any:
    """Read a film that the head follows as the check and the first stage do."""
    check_pose(path)
    return read_pose(path)


def read_batch(path: Path) -> Any:
    """Read a table of jobs."""
    return read_manifest(path, {})


READERS: dict[str, tuple[Callable[[Path], Any], list[Case]]] = {
    "sound": (read_sound, sounds.CASES),
    "picture": (load_portrait, pictures.CASES),
    "film": (read_film, films.CASES),
    "batch": (read_batch, tables.BATCHES),
    "track": (read_pose_csv, tables.TRACKS),
}
PARAMETERS = [
    pytest.param(reader, case, id=f"{kind}: {case.name}") for kind, (reader, cases) in READERS.items() for case in cases
]


@pytest.mark.parametrize(("reader", "case"), PARAMETERS)
def test_right_answer(
    reader: Callable[[Path], Any], case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "liveavatar")
    case.answer(reader, tmp_path, lambda: "\n".join(record.getMessage() for record in caplog.records))


SAMPLES = DATA / "samples"
REFUSALS = [  # variables, options, exit code, words; what passes is in flows/serving/test_environment.py
    pytest.param({"LIVEAVATAR_HOME": "file"}, {}, 3, "cannot be written", id="home is a file"),
    pytest.param({"LIVEAVATAR_HOME": "/proc/x"}, {}, 3, "cannot be written", id="home where nothing can be made"),
    pytest.param({"LIVEAVATAR_STORE_GB": "many"}, {}, 2, "is no number", id="limit that is no number"),
    pytest.param({"RAY_ADDRESS": "127.0.0.1:9"}, {}, 3, "no Ray cluster answers", id="cluster that is gone"),
    pytest.param({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, {}, 3, "no Prefect server", id="server that is gone"),
    pytest.param({"PYTHONIOENCODING": "ascii"}, {"audio": "gonë.wav"}, 2, "no such file", id="ASCII terminal"),
    pytest.param({}, {"audio": "file"}, 2, "file: the file is empty", id="sound"),
    pytest.param({}, {"image": "file"}, 2, "file: the file is empty", id="picture"),
    pytest.param({}, {"pose_video": "file"}, 2, "file is empty", id="film"),
    pytest.param({}, {"pose_video": "gone.csv"}, 2, "gone.csv is not there", id="table"),
    pytest.param({}, {"model": "gone"}, 2, "no model directory", id="model"),
    pytest.param({}, {"prompt": " "}, 2, "prompt", id="prompt"),
    pytest.param({}, {"out": "file/out"}, 2, "is a file", id="output folder"),
    pytest.param({}, {"out": "a" * 300}, 2, "no folder can have this name", id="name too long"),
    pytest.param({}, {"audio": "a\x1b[2J.wav"}, 2, r"a\\x1b\[2J.wav", id="name with control characters"),
]


@pytest.mark.parametrize(("variables", "options", "code", "words"), REFUSALS)
def test_the_command_refuses_in_one_line(
    variables: dict[str, str], options: dict[str, str], code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    foreign = ("RAY_", "PREFECT_", "COV_", "LIVEAVATAR_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    job = {"audio": SAMPLES / "speech.wav", "image": SAMPLES / "portrait.png", "prompt": "A woman talks.", "out": "out"}
    arguments = [str(part) for name, value in {**job, **options}.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("liveavatar")), "render", *arguments], cwd=tmp_path, check=False,
        env={**environment, "LIVEAVATAR_HOME": str(tmp_path / "home"), **variables}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("liveavatar: ")
    assert re.search(words, lines[-1])
    assert sum(line.startswith("liveavatar: ") for line in lines) == 1
    assert done.stderr.isascii() or "PYTHONIOENCODING" not in variables


def test_names_are_unique() -> None:
    names = [parameter.id for parameter in PARAMETERS]
    assert len(names) == len(set(names))

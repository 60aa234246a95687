"""What the landmark network's native code writes, seen by a process that reads the terminal."""

import subprocess
import sys

import pytest

# The tracker is loaded as a render loads it; before, meanwhile and after, others write to the same terminal.
SCRIPT = """
import os, sys
import ai_edge_litert.interpreter as litert

{before}
whole = litert.Interpreter.allocate_tensors

def allocate(self):
    whole(self)
    {meanwhile}

litert.Interpreter.allocate_tensors = allocate
from liveavatar.quality.landmarks import FaceTracker

try:
    FaceTracker()
except RuntimeError as e:
    sys.stderr.write(f"raised {{e}}\\n")
sys.stderr.write("after\\n")
sys.stderr.flush()
os.system("echo a child >&2")
"""


@pytest.mark.parametrize(
    ("before", "meanwhile", "lines"),
    [
        pytest.param("", "", ["after", "a child"], id="nothing happens"),
        pytest.param(
            "", "os.write(2, b'ERROR: no memory\\n')", ["ERROR: no memory", "after", "a child"], id="an error"
        ),
        pytest.param("", "os.system('echo ffmpeg: no >&2')", ["ffmpeg: no", "after", "a child"], id="a child's error"),
        pytest.param("", "raise RuntimeError('broken')", ["raised broken", "after", "a child"], id="it fails"),
        pytest.param("os.close(2); os.open('later', os.O_RDWR | os.O_CREAT)", "", [], id="standard error is a file"),
    ],
)
def test_the_terminal_shows_errors_and_no_notes(
    before: str, meanwhile: str, lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("terminal")
    script = SCRIPT.format(before=before.replace("later", str(folder / "later")), meanwhile=meanwhile or "pass")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == lines
    if before:
        assert (folder / "later").read_text().splitlines() == ["after", "a child"]


def test_the_note_is_still_written_where_nothing_keeps_it_away() -> None:
    script = SCRIPT.format(before="", meanwhile="pass").replace("FaceTracker()", "load()")
    script = script.replace(
        "from liveavatar.face.landmarks import FaceTracker",
        "from liveavatar.quality import landmarks\nimport contextlib\n"
        "landmarks._notes_dropped = contextlib.nullcontext\nload = landmarks.FaceTracker",
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "XNNPACK" in done.stderr.splitlines()[0], "the note has gone by itself: so can the redirection"

"""SECURITY.md: every line names a test that exists, and the tests of no single file that hold its lines."""

import ast
import contextlib
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import torch

from liveavatar.audio.feature_file import FeatureFile
from liveavatar.audio.ingest import load_audio
from liveavatar.checkpoints.weight_files import read_pickle
from liveavatar.engine.snapshot import read_snapshot
from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import probe_video
from liveavatar.media.picture import read_picture
from liveavatar.paths import DATA, REPO_ROOT
from tests.audio.sounds import tone, write

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SOURCES = sorted(p for room in ("flows", "tasks", "liveavatar") for p in (REPO_ROOT / room).rglob("*.py"))
BETWEEN_OUR_OWN_PROCESSES = {"liveavatar/distributed/group.py"}  # pickles of one rank for another, over loopback
RUNS_CODE = {
    *("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads"),
    *("yaml.load", "yaml.unsafe_load", "dill.loads", "joblib.load", "runpy.run_path"),
}


def functions(path: Path) -> set[str]:
    """Names of all functions in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_line_of_the_list_is_held_by_a_test() -> None:
    lines = [line for line in (REPO_ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 15
    for line in lines:
        named = NAMED.findall(line)
        assert named, f"no test is named: {line}"
        for file, name in named:
            assert name in functions(REPO_ROOT / file), f"{file}::{name}"


def calls(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Iterate over the calls in a file: the function's name, and its keywords as source."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {str(k.arg): ast.unparse(k.value) for k in node.keywords}


def test_no_reader_runs_code_from_a_file() -> None:
    found = []
    for path in SOURCES:
        name = str(path.relative_to(REPO_ROOT))
        for function, keywords in calls(path):
            unsafe = function in RUNS_CODE and name not in BETWEEN_OUR_OWN_PROCESSES
            unsafe |= function.endswith("torch.load") and keywords.get("weights_only") != "True"
            unsafe |= keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True"
            unsafe |= keywords.get("trust_remote_code") == "True"
            found += [f"{name}: {function}"] if unsafe else []
    assert not found


class Bomb:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("archive", [pytest.param(True, id="torch archive"), pytest.param(False, id="bare pickle")])
@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda path: FeatureFile(path), id="features"),
        pytest.param(read_pickle, id="weights"),
    ],
)
def test_code_in_a_pickle_is_not_run(read: Callable[[Path], object], archive: bool, tmp_path: Path) -> None:
    file, made = tmp_path / "a.pt", tmp_path / "made"
    content = {"features": Bomb(made)}
    if archive:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError):
        read(file)
    assert not made.exists()


def test_a_pickle_named_snapshot_is_passed_over(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "block-000004-.safetensors").write_bytes(pickle.dumps(Bomb(made)))
    lines: list[str] = []
    assert read_snapshot(tmp_path, "0" * 64, warn=lines.append) is None
    assert not made.exists()
    assert len(lines) == 1


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that were asked for."""
    paths: list[str] = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n"
TRICKS = {
    "HLS": HLS,
    "HLS with a key": HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{other}"\n#EXTINF'),
    "HLS with a header": HLS.replace("#EXTINF", '#EXT-X-MAP:URI="{other}"\n#EXTINF'),
    "HLS of HLS": '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{other}"\n'
    '#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\n{other}\n',
    "concat": "ffconcat version 1.0\nfile '{other}'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration='
    '"PT3S"><Period><AdaptationSet mimeType="audio/wav"><Representation id="1" bandwidth="1"><BaseURL>{other}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "VobSub": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"><image href="{other}"/></svg>',
    "MVG": "push graphic-context\nviewbox 0 0 99 99\nimage over 0,0 0,0 'url({other})'\npop graphic-context\n",
}


@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.m3u8", "a.idx", "a.svg"])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_file_opens_no_other(trick: str, name: str, tmp_path: Path, asked: tuple[str, list[str]]) -> None:
    url, paths = asked
    write(tmp_path / "other.wav", tone())
    for other in (str(tmp_path / "other.wav"), "other.wav", f"{url}/other.wav"):
        (tmp_path / name).write_text(TRICKS[trick].replace("{other}", other))
        for read in (load_audio, probe_video, read_picture):
            with pytest.raises(InputError):
                read(tmp_path / name)
    assert not paths


@pytest.mark.parametrize(
    "name",
    ["{url}/a.wav", "file:other.wav", "concat:other.wav|other.wav", "subfile,,start,0,end,0,,:other.wav", "pipe:0",
     "data:audio/wav;base64,UklGRg==", "tcp://127.0.0.1:{port}", "lavfi:sine", "crypto:other.wav", "cache:other.wav"],
)  # fmt: skip
def test_a_name_is_no_protocol(
    name: str, tmp_path: Path, asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, paths = asked
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "other.wav", tone())
    path = Path(name.format(url=url, port=url.rpartition(":")[2]))
    for read in (load_audio, probe_video, read_picture):
        with pytest.raises(InputError, match=r"no such file|is not there"):
            read(path)
    assert not paths


MARK = "Zq7secret"
SECRETS = {
    "PREFECT_API_KEY": f"pnu_{MARK}1",
    "PREFECT_API_AUTH_STRING": f"admin:{MARK}2",
    "HF_TOKEN": f"hf_{MARK}3",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}4",
    "HTTPS_PROXY": f"http://me:{MARK}5@127.0.0.1:9",
    "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://me:{MARK}6@127.0.0.1/theirs",
}


def listening(home: Path) -> set[str]:
    """Addresses on which servers of this home listen; Ray's ask for a token instead."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("LIVEAVATAR_HOME") == str(home) and "uvicorn" in process.cmdline():
                found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.nightly
def test_a_render_gives_away_no_secret_and_its_server_is_for_this_machine(tmp_path: Path, tiny_model: Path) -> None:
    home, samples = tmp_path / "home", DATA / "samples"
    (tmp_path / "t").mkdir()
    foreign = ("RAY_", "PREFECT_", "COV_", "LIVEAVATAR_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"LIVEAVATAR_HOME": str(home), "TMPDIR": str(tmp_path / "t"), **SECRETS}
    write(tmp_path / "speech.wav", load_audio(samples / "speech.wav")[: 3 * 16_000], 16_000)
    job = ["--audio", "speech.wav", "--image", samples / "portrait.png", "--prompt", "A woman talks.", "--out", "out"]
    job += ["--model", tiny_model, "--whisper", "off", "--denoise", "off"]
    command = [Path(sys.executable).with_name("liveavatar"), "render", *job]
    with (tmp_path / "lines").open("w") as lines:
        process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=env, stdout=lines, stderr=lines)
        addresses: set[str] = set()
        while process.poll() is None:
            addresses |= listening(home)
            time.sleep(0.5)
    assert process.returncode in (0, 1), (tmp_path / "lines").read_text()  # a random model makes noise
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"report.json", "manifest.json", "prefect.db"} <= {path.name for path in files}
    assert not [str(path) for path in files if MARK.encode() in path.read_bytes()]
    assert addresses, "nothing was seen to listen"
    assert addresses <= {"127.0.0.1", "::1"}

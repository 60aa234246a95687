"""The command line: one clear line and the right exit code for everything that cannot work."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from flows.cli import ask
from flows.parameters import RenderParameters
from liveavatar import config
from liveavatar.errors import CapacityError, InputError
from liveavatar.paths import REPO_ROOT
from tests.flows.cli.commands import RATE, run


def _write(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


def _sound(name: str, samples: np.ndarray, rate: int = RATE) -> None:
    wavfile.write(name, rate, samples)


def _cut_wav() -> None:
    _sound("cut.wav", np.ones(RATE * 4, np.float32) * 0.1)
    data = Path("cut.wav").read_bytes()
    _write("cut.wav", data[: len(data) // 3])


def _cut_png() -> None:
    data = Path("face.png").read_bytes()
    Image.effect_noise((400, 400), 90).save("noise.png")
    data = Path("noise.png").read_bytes()
    _write("cut.png", data[: len(data) // 2])


def _other_folder() -> None:
    Path("mine").mkdir()
    _write("mine/thesis.txt", b"do not delete")


BAD = [
    pytest.param({"audio": "nowhere.wav"}, None, 2, "nowhere.wav", id="sound missing"),
    pytest.param({"audio": "."}, None, 2, "director|folder", id="sound is a folder"),
    pytest.param({"audio": "e.wav"}, lambda: _write("e.wav", b""), 2, "empty", id="sound of 0 bytes"),
    pytest.param({"audio": "t.wav"}, lambda: _write("t.wav", b"hello world\n" * 99), 2, "t.wav", id="text called wav"),
    pytest.param({"audio": "cut.wav"}, _cut_wav, 2, "cut.wav", id="sound cut short"),
    pytest.param(
        {"audio": "q.wav"}, lambda: _sound("q.wav", np.zeros(RATE, np.float32)), 2, "silent", id="silent sound"
    ),
    pytest.param(
        {"audio": "s.wav"}, lambda: _sound("s.wav", np.ones(99, np.float32)), 2, "0.5 s", id="sound too short"
    ),
    pytest.param(
        {"audio": "n.wav"},
        lambda: _sound("n.wav", np.full(RATE, np.nan, np.float32)),
        2,
        "no numbers",
        id="nan in sound",
    ),
    pytest.param(
        {"audio": "l.wav"},
        lambda: _sound("l.wav", np.zeros(3 * 3700 * 2000, np.uint8), 2000),
        2,
        "3 h",
        id="over 3 hours",
    ),
    pytest.param({"image": "nowhere.png"}, None, 2, "nowhere.png", id="picture missing"),
    pytest.param({"image": "1.png"}, lambda: Image.new("RGB", (1, 1)).save("1.png"), 2, "small", id="picture 1x1"),
    pytest.param(
        {"image": "20k.png"}, lambda: Image.new("L", (20_000, 20_000)).save("20k.png"), 2, "pixels", id="20000x20000"
    ),
    pytest.param({"image": "cut.png"}, _cut_png, 2, "damaged|cut", id="picture cut short"),
    pytest.param({"image": "voice.wav"}, None, 2, "no picture", id="picture is a sound"),
    pytest.param({"prompt": ""}, None, 2, "empty", id="empty prompt"),
    pytest.param({"prompt": "  \n"}, None, 2, "empty", id="blank prompt"),
    pytest.param({"prompt": "caf\udce9"}, None, 2, "is not UTF-8 text", id="prompt that is no text"),
    pytest.param({"prompt": "word " * 5000}, None, 2, "5000 words", id="5000 words"),
    pytest.param({"prompt": "person talking", "strict_prompt": None}, None, 2, "poor", id="poor prompt, strict"),
    pytest.param({"size": "7*7"}, None, 2, "384\\*256", id="size 7*7"),
    pytest.param({"size": "wide"}, None, 2, "W\\*H", id="size is a word"),
    pytest.param({"infer_frames": "50"}, None, 2, "48 or 60", id="infer_frames 50"),
    pytest.param({"sample_steps": "0"}, None, 2, "sample_steps", id="no steps"),
    pytest.param({"sample_steps": "9"}, None, 2, "sample_steps", id="nine steps"),
    pytest.param({"sample_steps": "four"}, None, 2, "sample_steps", id="steps is a word"),
    pytest.param({"num_clip": "0"}, None, 2, "num_clip", id="no clips"),
    pytest.param({"fps": "30"}, None, 2, "25", id="30 fps"),
    pytest.param({"seed": "-1"}, None, 2, "seed", id="negative seed"),
    pytest.param({"denoise": "magic"}, None, 2, "denoise", id="unknown denoise"),
    pytest.param({"whisper": "huge"}, None, 2, "whisper", id="unknown whisper"),
    pytest.param({"placement": "tpp", "num_gpus": "6"}, None, 2, "no more than 5", id="an idle process"),
    pytest.param({"placement": "both"}, None, 2, "placement", id="unknown placement"),
    pytest.param({"num_gpus": "0"}, None, 2, "num_gpus", id="no processes"),
    pytest.param({"model": "nowhere"}, None, 2, "no model directory", id="unknown model"),
    pytest.param({"model": "live-avatar-14b"}, None, 2, "models fetch", id="14B without weights"),
    pytest.param({"model": "."}, None, 2, "config.json", id="model folder is empty"),
    pytest.param({"out": "voice.wav"}, None, 2, "is a file", id="out is a file"),
    pytest.param({"out": "voice.wav/x"}, None, 2, "is a file", id="out is below a file"),
    pytest.param({"out": "mine"}, _other_folder, 2, "other files", id="out holds other files"),
    pytest.param({"bogus": "1"}, None, 2, "bogus", id="unknown option"),
    pytest.param({"audio": "-", "denoise": "stationary"}, None, 2, "as a whole", id="pipe with noise removal"),
    pytest.param({"audio": "-", "resume": None}, None, 2, "what a pipe said is gone", id="pipe with resume"),
    pytest.param({"audio": "-", "pose_video": "p.csv"}, None, 2, "no length", id="pipe with a head pose"),
    pytest.param({"audio": "-", "placement": "replicas"}, None, 2, "use --placement tpp", id="pipe with replicas"),
]


@pytest.mark.parametrize(("change", "prepare", "code", "says"), BAD)
def test_bad_input_ends_with_one_line(
    change: dict[str, str | None],
    prepare: object,
    code: int,
    says: str,
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if callable(prepare):
        prepare()
    before = {p for p in Path().rglob("*") if "home" not in p.parts}
    arguments = ["render"]
    for name, value in {**files, **change}.items():
        arguments += [f"--{name}"] if value is None else [f"--{name}", value]
    got, out, err = run(arguments, capsys)
    assert got == code, err
    assert out == ""
    assert re.fullmatch(r"liveavatar: .+\n", err), err
    assert re.search(says, err), err
    assert {p for p in Path().rglob("*") if "home" not in p.parts} == before


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "is empty", id="nothing"),
        pytest.param(b"\1\0" * 4000, "shorter than 0.5 s", id="a quarter of a second"),
        pytest.param(b"RIFF" + b"\1\0" * 20_000, "a WAV file", id="a WAV file"),
        pytest.param(b"hello world\n" * 9999, "is text", id="text"),
        pytest.param(np.random.default_rng(0).bytes(99_999), "no sound", id="noise of any bytes"),
    ],
)
def test_a_pipe_without_sound_ends_with_one_line(
    data: bytes, says: str, files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pipe").write_bytes(data)
    with Path("pipe").open() as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        arguments = [part for name, value in {**files, "audio": "-"}.items() for part in (f"--{name}", value)]
        got, out, err = run(["render", *arguments], capsys)
    assert (got, out) == (2, "")
    assert re.fullmatch(r"liveavatar: .+\n", err), err
    assert says in err


HEADER = b"frame,yaw,pitch,roll\n"


@pytest.mark.parametrize(
    ("guided", "name", "data", "says"),
    [
        pytest.param(False, "p.csv", HEADER + b"0,0,0,0\n", "tiny was trained without head pose", id="model untrained"),
        pytest.param(True, "gone.mp4", None, "gone.mp4 is not there", id="missing"),
        pytest.param(True, "gone.csv", None, "gone.csv is not there", id="table missing"),
        pytest.param(True, "p.mp4", b"hello world\n" * 99, "p.mp4 is no media file", id="no video"),
        pytest.param(True, "voice.wav", None, "voice.wav holds no picture", id="a sound"),
        pytest.param(True, "face.png", None, "face.png is a still picture", id="no face"),
        pytest.param(True, "p.csv", b"", "p.csv holds no rows", id="empty table"),
        pytest.param(True, "p.csv", HEADER + b"0,nan,0,0\n", "line 2: holds nan", id="nan"),
        pytest.param(True, "p.csv", HEADER[:-1] + b",lids\n0,0,0,0,2\n", "lids is not between 0", id="lids"),
    ],
)
def test_bad_head_pose_ends_with_one_line(
    guided: bool, name: str, data: bytes | None, says: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path("guided")
    shutil.copytree(files["model"], model)
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**raw, "pose_guided": guided}))
    if data is not None:
        _write(name, data)
    options = {**files, "model": str(model), "pose_video": name}
    code, out, err = run(["render", *(part for k, v in options.items() for part in (f"--{k}", v))], capsys)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"liveavatar: .+\n", err), err
    assert says in err


@pytest.mark.parametrize("option", ["--fp8", "--offload_model=True", "--kv_cache_dtype=fp8", "--kv_cache_dtype=bf16"])
def test_gpu_only_options_are_refused_on_a_cpu(
    option: str, files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.store.machine.accelerators", lambda: ())
    arguments = ["render", option, *(part for name, value in files.items() for part in (f"--{name}", value))]
    code, _, err = run(arguments, capsys)
    assert code == 2
    assert "GPU" in err


def test_the_small_model_has_no_choice_of_keys_and_values(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.store.machine.accelerators", lambda: ("H200",))
    arguments = [part for name, text in files.items() for part in (f"--{name}", text)]
    code, _, err = run(["render", *arguments, "--kv_cache_dtype", "int8"], capsys)
    assert code == 2
    assert "--kv_cache_dtype int8: only live-avatar-14b on a GPU has a choice" in err
    code, _, err = run(["render", *arguments, "--kv_cache_dtype", "int4"], capsys)
    assert code == 2
    assert "--kv_cache_dtype 'int4' should be 'auto', 'bf16', 'fp8', 'int8' or 'e4m3'" in err


def test_tpp_with_offload_names_the_way_out(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.store import machine

    monkeypatch.setattr(machine, "accelerators", lambda: ("H200", "H200"))
    arguments = [part for name, text in files.items() for part in (f"--{name}", text)]
    arguments += ["--placement", "tpp", "--offload_model", "True"]
    code, _, err = run(["render", *arguments], capsys)
    assert code == 2
    assert "drop --offload_model" in err
    assert "use --placement single" in err


def test_tpp_may_compute_in_8_bits(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import preflight
    from tasks.store import machine

    parameters = RenderParameters.model_validate({**files, "placement": "tpp", "num_gpus": 2, "fp8": True})
    with pytest.raises(InputError, match="need a GPU"):
        preflight.check(parameters)
    monkeypatch.setattr(machine, "accelerators", lambda: ("H200", "H200"))
    preflight.check(parameters)


def test_num_gpus_without_gpus_does_not_fit_the_14b(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.store.machine.accelerators", lambda: ())
    monkeypatch.setenv("LIVEAVATAR_MODELS", str(Path("models").absolute()))
    folder = Path("models/live-avatar-14b")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(replace(config.LIVE_AVATAR_14B, name="my-14b").to_json())
    arguments = ["render", "--num_gpus", "4", "--placement", "tpp"]
    for name, value in {**files, "model": "live-avatar-14b"}.items():
        arguments += [f"--{name}", value]
    code, _, err = run(arguments, capsys)
    assert code == 3
    assert "0 GPUs" in err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["render", "--audio", "a", "--image", "b"], id="prompt missing"),
        pytest.param(["dance"], id="unknown command"),
        pytest.param([], id="no command"),
        pytest.param(["sweep", "--steps", "3,9", "--audio", "a", "--image", "b", "--prompt", "c"], id="nine steps"),
        pytest.param(["sweep", "--split", "evaluation", "--audio", "a"], id="a job beside the split"),
        pytest.param(["sweep", "--audio", "a", "--image", "b"], id="sweep without a prompt"),
        pytest.param(["bench", "quality", "--clips", "0"], id="no clips"),
        pytest.param(["bench", "quality", "--recordings", "nowhere"], id="recordings missing"),
        pytest.param(["bench", "quality", "--split", "nowhere"], id="split missing"),
        pytest.param(["bench", "quality", "--portraits", "nowhere"], id="portraits missing"),
        pytest.param(["bench", "quality", "--portraits", "data/samples", "--clips", "2"], id="clips of portraits"),
        pytest.param(["bench", "quality", "--framing", "model"], id="framing without portraits"),
        pytest.param(["batch", "jobs.txt"], id="manifest missing"),
        pytest.param(["models", "keys"], id="no preset"),
        pytest.param(["models", "keys", "nothing"], id="unknown preset"),
        pytest.param(["parity", "nowhere"], id="parity without a set"),
        pytest.param(["plan", "--gpus", "lots"], id="gpus that are no gpus"),
        pytest.param(["plan", "--seconds", "-1"], id="negative seconds"),
        pytest.param(["preprocess", "--input", "nowhere.wav", "--output", "out"], id="preprocess nothing"),
        pytest.param(["bench", "gpu"], id="bench gpu"),
        pytest.param(["check-prompt"], id="no prompt"),
    ],
)
def test_every_command_refuses_in_one_line(
    arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(arguments, capsys)
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"liveavatar: .+\n", err)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys; from flows import cli\ntry: cli.main(['render', '--help'])\nexcept SystemExit: pass\n"
    code += (
        "sys.stderr.write(','.join(m for m in ('torch', 'prefect', 'ray', 'pandas', 'whisper') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "--sample_steps" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("debug", ["0", "1"])
def test_our_own_mistake_is_one_line_and_a_code_of_its_own(debug: str, tmp_path: Path) -> None:
    code = "import sys; from flows import cli; cli._home = lambda n: 1/0; sys.exit(cli.main(['stop']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"LIVEAVATAR_HOME": str(tmp_path), "PATH": "", "LIVEAVATAR_DEBUG": debug},
        check=False,
    )
    assert done.returncode == 5
    if debug == "1":
        assert done.stderr.startswith("Traceback")
        return
    assert re.fullmatch(r"liveavatar: this should not happen: ZeroDivisionError.+\n", done.stderr)
    assert "Traceback" in (tmp_path / "last-error.txt").read_text()


@pytest.mark.parametrize("hidden", [False, True], ids=["cause", "no cause"])
@pytest.mark.parametrize("error", [SystemError, RuntimeError, CapacityError])
def test_sigterm_is_an_interruption_whatever_a_library_makes_of_it(
    error: type[Exception], hidden: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def models(options: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as e:
            raise error("it returned a result with an exception set") from (None if hidden else e)
        return 0

    monkeypatch.setattr(ask, "models", models)
    before = signal.getsignal(signal.SIGTERM)
    code, _, errors = run(["models", "list"], capsys)
    signal.signal(signal.SIGTERM, before)
    assert (code, errors) == (4, "liveavatar: `liveavatar models` was interrupted; run it again\n")


def test_an_interrupted_process_ends_after_its_exit_handlers_and_at_once() -> None:
    command = """if True:
        import atexit, signal, sys
        from flows import cli
        from flows.cli import ask
        class Slow:
            def __del__(self):
                print("taken apart")
        def models(options):
            global kept
            kept = Slow()
            atexit.register(print, "handled")
            signal.raise_signal(signal.SIGTERM)
        ask.models = models
        sys.exit(cli.main())
    """
    done = subprocess.run(
        [sys.executable, "-c", command, "models", "list"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (4, "handled\n")
    assert done.stderr == "liveavatar: `liveavatar models` was interrupted; run it again\n"


def test_python_without_docstrings_is_started_again_with_them() -> None:
    code = "import sys; from flows.cli import main; print(sys.flags.optimize, flush=True); sys.exit(main())"
    command = [sys.executable, "-c", code, "check-prompt", "A woman talks", "--json"]
    surroundings = {**os.environ, "PYTHONOPTIMIZE": "2"}
    done = subprocess.run(command, cwd=REPO_ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["2", "0", "{"]

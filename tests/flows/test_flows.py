"""Flows: every deployment can be imported, and a render goes through Prefect and Ray from files to a published run."""

import hashlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy.io import wavfile

from tests.flows.shop import Shop
from tests.isolation import planted

REPORT_KEYS = {"status", "checks", "metrics", "timing", "memory", "plan", "inputs", "parameters"}
METRICS = {
    *("av_offset_frames", "sync_error_frames", "lip_sync", "silent_lip", "identity_min", "identity_drift"),
    *("texture_psnr", "sharpness_ratio", "flicker", "jerk_index", "motion_energy", "dropped_frames"),
    *("duration_error_s", "dnsmos_before", "dnsmos_after", "wer_before", "wer_after"),
}
TIMING = {"ttff_s", "block_ms_p50", "block_ms_p99", "deadline_misses", "fps", "ms_per_frame", "total_s", "cached_tasks"}


@pytest.mark.slow
def test_render_publishes_a_whole_run(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    from liveavatar.media.ffmpeg import probe_video

    out = shop.folder / "out/a"
    report, manifest = shop.report("out/a"), shop.manifest("out/a")
    assert set(report) >= REPORT_KEYS
    assert set(report["metrics"]) >= METRICS
    assert set(report["timing"]) >= TIMING
    assert report["timing"]["cached_tasks"] == 0
    assert first.returncode == int(report["status"] == "failed")
    for check in report["checks"]:
        assert {"name", "status", "value", "limit", "reason"} <= set(check)
    for name, sha in manifest["outputs"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha
    latents = (out / "latents.bin").read_bytes()
    assert hashlib.sha256(latents).hexdigest() == manifest["latents_sha256"]
    assert len(latents) == 4 * np.prod(manifest["latents_shape"])
    video = probe_video(out / "video.mp4")
    assert (video.width, video.height, video.num_frames) == (256, 384, 144)
    assert video.audio_seconds is not None
    assert abs(video.audio_seconds - video.video_seconds) <= 0.04
    assert (out / "live/index.m3u8").read_text().rstrip().endswith("#EXT-X-ENDLIST")
    for name in (
        "report.html",
        "sheet.jpg",
        "frames.parquet",
        "blocks.parquet",
        "audio/cleaned.wav",
        "audio/words.json",
    ):
        assert (out / name).stat().st_size > 0
    assert not list((shop.folder / "out").glob(".*")), "nothing half-built stays"
    assert not [p for p in (shop.folder / "home/work").glob("*") if p.is_dir()], (
        "the work folder goes when the render is stored"
    )
    slow_start = "server at http"  # named after 10 s, on a busy machine
    lines = (first.stdout + first.stderr).splitlines()
    assert not [line for line in lines if "http" in line and slow_start not in line]


@pytest.mark.slow
def test_the_same_job_again_renders_nothing(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    before = (shop.folder / "out/a/video.mp4").stat()
    started = time.perf_counter()
    done = shop.run("render", *shop.job(out="out/a"), "--enable-online-decode")
    seconds = time.perf_counter() - started
    assert done.returncode == first.returncode
    assert shop.report("out/a")["timing"]["cached_tasks"] == 8
    assert (shop.folder / "out/a/video.mp4").stat() == before
    assert seconds < 60


@pytest.mark.nightly
def test_a_group_of_processes_starts_in_seconds(shop: Shop) -> None:
    """Two threads of a rank once made a group each, and the others waited 120 s for the one that was gone."""
    done = shop.run("render", *shop.job(out="out/group", placement="tpp", num_gpus="2", num_clip="1"))
    output = done.stdout + done.stderr
    assert done.returncode in (0, 1), output
    assert "lost" not in output
    seconds = re.search(r"^ *render +([0-9.]+) s$", output, re.MULTILINE)
    assert seconds is not None, output
    assert float(seconds[1]) < 60, output  # 4 to 7 s on two idle cores


@pytest.mark.nightly
def test_offline_gives_the_same_bits_and_reuses_the_sound(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    done = shop.run("render", *shop.job(out="out/b"))
    assert done.returncode in (0, 1), done.stderr
    assert shop.manifest("out/b")["latents_sha256"] == shop.manifest("out/a")["latents_sha256"]
    assert (shop.folder / "out/b/video.mp4").read_bytes() == (shop.folder / "out/a/video.mp4").read_bytes()
    assert not (shop.folder / "out/b/live").exists()
    assert shop.report("out/b")["timing"]["cached_tasks"] == 4  # ingest, enhance, features, prompt


@pytest.mark.nightly
def test_the_head_follows_a_pose_file_and_the_store_knows_its_content(shop: Shop) -> None:
    model = shop.folder / "guided"
    shutil.copytree(shop.model, model)
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**raw, "pose_guided": True}))
    angles = {"still": np.zeros(50), "nod": 10 * np.sin(np.arange(50) / 5)}
    for name, pitch in angles.items():
        rows = "".join(f"{i},0,{a:.3f},0\n" for i, a in enumerate(pitch))
        (shop.folder / "pose.csv").write_text("frame,yaw,pitch,roll\n" + rows)
        done = shop.run("render", *shop.job(model="guided", pose_video="pose.csv", out=f"out/{name}"))
        assert done.returncode in (0, 1), done.stderr
        sha = hashlib.sha256((shop.folder / "pose.csv").read_bytes()).hexdigest()
        assert shop.manifest(f"out/{name}")["inputs"]["pose_video"] == {"name": "pose.csv", "sha256": sha}
    assert shop.manifest("out/still")["latents_sha256"] != shop.manifest("out/nod")["latents_sha256"]
    assert shop.report("out/nod")["timing"]["cached_tasks"] == 4  # enhance, features, prompt, plan


def _wait_for(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError("waited too long")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 4, id="Ctrl-C"), pytest.param(signal.SIGKILL, -signal.SIGKILL, id="kill -9")],
)
def test_resume_gives_the_bits_of_an_uninterrupted_run(
    shop: Shop, first: subprocess.CompletedProcess[str], number: signal.Signals, code: int
) -> None:
    job = ["render", *shop.job(), "--enable-online-decode", "--force", "--out", "out/c"]
    process = subprocess.Popen(
        shop.command(*job),
        cwd=shop.folder,
        env=shop.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    snapshots = shop.folder / "home/work"
    _wait_for(lambda: list(snapshots.glob("*/snapshots/*.safetensors")) or process.poll() is not None)
    process.send_signal(number)
    assert process.wait(120) == code
    assert not (shop.folder / "out/c").exists(), "a run that did not end publishes nothing"
    done = shop.run(*job, "--resume")
    assert done.returncode in (0, 1), done.stderr
    interrupted = flow_runs(shop)[-2]
    assert (interrupted["state"], "--resume continues" in interrupted["message"]) == ("Crashed", True)
    assert "resumed at block" in done.stderr
    assert shop.manifest("out/c")["latents_sha256"] == shop.manifest("out/a")["latents_sha256"]
    assert (shop.folder / "out/c/video.mp4").read_bytes() == (shop.folder / "out/a/video.mp4").read_bytes()
    shutil.rmtree(shop.folder / "out/c")


@pytest.mark.nightly
def test_one_bad_job_stops_nothing(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    """Also those whose file crashes, aborts or hangs its decoder, as any file of these names does here."""
    prompt = "A woman in her thirties talks, soft light, photorealistic."
    faults = ("crashing-face.png", "aborting-face.png", "hanging-face.png")
    for name in faults:
        shutil.copy(shop.folder / "face.png", shop.folder / name)
    rows = [
        f'voice.wav,face.png,"{prompt}",4',
        *(f'voice.wav,{name},"{prompt}",4' for name in faults),
        f'nowhere.wav,face.png,"{prompt}",4',
        f'voice.wav,face.png,"{prompt}",40',
        f'voice.wav,face.png,"{prompt}",4',
    ]
    (shop.folder / "jobs.csv").write_text("audio,image,prompt,sample_steps\n" + "\n".join(rows) + "\n")
    common = ["--model", str(shop.model), "--whisper", "off", "--denoise", "off", "--enable-online-decode"]
    done = shop.run("batch", "jobs.csv", *common, "--json", PYTHONPATH=str(Path(planted.__file__).parent))
    outcomes = json.loads(done.stdout)
    good = shop.report("out/a")["status"]
    assert [row["status"] for row in outcomes] == [good, *["refused"] * 5, good]
    assert done.returncode == 2
    assert "crashing-face.png: reading it crashes (SIGSEGV)" in outcomes[1]["reason"]
    assert "aborting-face.png: reading it crashes (SIGABRT)" in outcomes[2]["reason"]
    assert "hanging-face.png: reading it came no further for 60 s and was given up" in outcomes[3]["reason"]
    assert "nowhere.wav" in outcomes[4]["reason"]
    assert "sample_steps" in outcomes[5]["reason"]
    assert f"job 7/7 voice.wav: {good}" in done.stderr
    assert json.loads((shop.folder / "out/jobs/batch.json").read_text()) == outcomes
    for out in ("000-voice", "006-voice"):
        assert (shop.folder / "out/jobs" / out / "video.mp4").is_file()


@pytest.mark.nightly
def test_sweep_compares(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    rate, sound = wavfile.read(shop.folder / "voice.wav")
    wavfile.write(shop.folder / "short.wav", rate, sound[: 3 * rate // 2])
    job = shop.job(audio="short.wav", out="out/sweep")
    done = shop.run("sweep", *job, "--enable-online-decode", "--steps", "1,4", "--json")
    table = json.loads(done.stdout)
    assert [row["steps"] for row in table["rows"]] == [1, 4]
    assert all(row["ms_per_frame"] > 0 for row in table["rows"])
    page = (shop.folder / "out/sweep/sweep.html").read_text()
    assert page.count("<svg") >= 1
    assert (shop.folder / "out/sweep/sweep.parquet").is_file()


@pytest.fixture(scope="module")
def golden(shop: Shop, first: subprocess.CompletedProcess[str]) -> Path:
    """A folder with one golden job, the first render, and its stored baseline."""
    folder = shop.folder / "golden"
    folder.mkdir()
    options = dict(zip(*[iter(shop.job())] * 2, strict=True))
    job = {name.removeprefix("--"): value for name, value in options.items()} | {"enable_online_decode": True}
    job |= {name: str(shop.folder / job[name]) for name in ("audio", "image")}
    (folder / "jobs.json").write_text(json.dumps({"a": job}))
    assert shop.run("regress", "--golden", "golden", "--update", "--reason", "a test").returncode == 0
    return folder


@pytest.mark.nightly
def test_regress_passes_on_what_it_stored(shop: Shop, golden: Path) -> None:
    done = shop.run("regress", "--golden", "golden", "--junit", "junit.xml")
    assert done.returncode == 0, done.stderr
    assert "bit by bit" in done.stdout
    assert 'failures="0"' in (shop.folder / "junit.xml").read_text()


def flow_runs(shop: Shop) -> list[dict[str, str]]:
    """Read the runs that Prefect has recorded in this shop, oldest first."""
    with sqlite3.connect(shop.folder / "home/prefect/prefect.db") as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(
            "SELECT r.id, r.name, s.name AS state, s.message FROM flow_run r "
            "JOIN flow_run_state s ON s.id = r.state_id ORDER BY r.created"
        )
        return [dict(row) for row in rows]


@pytest.mark.slow
def test_prefect_shows_verdicts_names_and_logs(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    run = flow_runs(shop)[0]
    report = shop.report("out/a")
    failed = [c for c in report["checks"] if c["status"] == "failed"]
    assert (run["name"], run["state"]) == ("voice-face-420", "Failed")
    assert report["headline"]
    assert run["message"].startswith(f"failed: {report['headline']}; {failed[0]['name']}: {failed[0]['reason']}")
    with sqlite3.connect(shop.folder / "home/prefect/prefect.db") as database:
        query = "SELECT message FROM log WHERE flow_run_id = ?"
        logged = [row[0] for row in database.execute(query, (run["id"],))]
    for line in ("ingest: begins", "render: block ", "quality: failed; "):
        assert any(text.startswith(line) for text in logged), logged


@pytest.mark.nightly
def test_a_regression_that_differs_is_red_in_prefect(shop: Shop, golden: Path) -> None:
    stored = json.loads((golden / "a.json").read_text())
    (golden / "a.json").write_text(json.dumps({**stored, "status": "passed"}))
    try:
        assert shop.run("regress", "--golden", "golden").returncode == 1
    finally:
        (golden / "a.json").write_text(json.dumps(stored))
    run = next(r for r in reversed(flow_runs(shop)) if r["name"] == "regression-golden")
    assert (run["state"], run["message"]) == ("Failed", "failed: a: verdict: failed, baseline passed")


CHANGES = [
    pytest.param({}, "latents", "bit by bit", True, id="nothing changed"),
    pytest.param({"model_sha256": "0"}, "model", "digest of the weights", False, id="another model"),
    pytest.param({"digests": "wrong"}, "latents", "bit by bit", False, id="other latents on the same machine"),
    pytest.param({"digests": {}}, "latents", "as numbers", True, id="another machine"),
    pytest.param({"status": "passed"}, "verdict", "equal", False, id="another verdict"),
    pytest.param({"metrics": {"flicker": 5.0}}, "flicker", "tolerance", False, id="a measure moved"),
]


@pytest.mark.nightly  # `make regress` renders in CI; the comparisons are tests of flows/regression.py
@pytest.mark.parametrize(("change", "name", "how", "passed"), CHANGES)
def test_regress_notices(
    shop: Shop, golden: Path, tmp_path: Path, change: dict[str, object], name: str, how: str, passed: bool
) -> None:
    from flows.regression import compare, write_junit

    baseline = json.loads((golden / "a.json").read_text())
    assert baseline["status"] != "passed", "a random model makes noise"
    if change.get("digests") == "wrong":
        change = {"digests": dict.fromkeys(baseline["digests"], "0")}
    if "metrics" in change:
        change = {"metrics": {**baseline["metrics"], **change["metrics"]}}  # type: ignore[dict-item]
    (tmp_path / "a.json").write_text(json.dumps({**baseline, **change}))
    shutil.copy(golden / "a.latents.npy", tmp_path)
    out = shop.folder / "out/a"
    cases = compare(tmp_path, "a", shop.manifest("out/a"), shop.report("out/a"), out / "latents.bin")
    case = next(case for case in cases if case["name"] == name)
    assert how in case["how"]
    assert case["passed"] is passed
    assert all(other["passed"] for other in cases if other is not case)
    write_junit(tmp_path / "junit.xml", cases)
    assert f'failures="{int(not passed)}"' in (tmp_path / "junit.xml").read_text()


def test_regress_without_a_baseline_is_no_pass(tmp_path: Path) -> None:
    from flows.regression import compare

    (case,) = compare(tmp_path, "a", {}, {}, tmp_path / "latents.bin")
    assert not case["passed"]
    assert "--update" in case["detail"]


@pytest.mark.slow
def test_serve_offers_the_deployments_and_stop_ends_it(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = subprocess.Popen(
        shop.command("serve", "--port", str(port)), cwd=shop.folder, env=shop.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        assert f"127.0.0.1:{port}" in serving.stdout.readline()

        def listed(kind: str) -> list[dict[str, Any]]:
            address = f"http://127.0.0.1:{port}/api/{kind}/filter"
            request = urllib.request.Request(address, b"{}", {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                return list(json.load(answer))

        deployed = {"render", "batch", "sweep", "nightly-regression"}
        _wait_for(lambda: {row["name"] for row in listed("deployments")} == deployed)
        _wait_for(lambda: any(run["auto_scheduled"] for run in listed("flow_runs")))
        family = psutil.Process(serving.pid).children(recursive=True)
        assert family
        stopped = shop.run("stop")
        assert "ended serve" in stopped.stdout
        serving.wait(30)
        _wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 30)
    finally:
        serving.kill()
        serving.wait()
        serving.stdout.close()


@pytest.mark.nightly
def test_steps_on_three_processes_give_the_same_film(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    spread = ["--placement", "tpp", "--num-gpus", "3", "--enable-online-decode", "--force"]
    done = shop.run("render", *shop.job(out="out/tpp"), *spread)
    assert done.returncode in (0, 1), done.stderr
    assert (shop.folder / "out/tpp/video.mp4").read_bytes() == (shop.folder / "out/a/video.mp4").read_bytes()
    assert shop.manifest("out/tpp")["latents_sha256"] == shop.manifest("out/a")["latents_sha256"]
    stages = shop.report("out/tpp")["timing"]["stages"]
    assert [stage["role"] for stage in stages] == ["steps 1-2", "step 3", "step 4 + decoder"]  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_replicas_take_jobs_side_by_side(shop: Shop, first: subprocess.CompletedProcess[str]) -> None:
    (shop.folder / "two.csv").write_text("audio,image,seed\nvoice.wav,face.png,420\nvoice.wav,face.png,7\n")
    common = shop.job(out="out/two")[4:]
    side = ["--placement", "replicas", "--num-gpus", "2", "--enable-online-decode", "--force", "--json"]
    done = shop.run("batch", "two.csv", *common, *side)
    outcomes = json.loads(done.stdout)
    assert len({row["out"] for row in outcomes}) == 2
    hashes = [shop.manifest(row["out"])["latents_sha256"] for row in outcomes]
    assert hashes[0] == shop.manifest("out/a")["latents_sha256"] != hashes[1]


@pytest.mark.nightly
def test_sound_from_a_pipe_is_rendered_as_it_arrives(shop: Shop) -> None:
    sound = wavfile.read(shop.folder / "voice.wav")[1]
    pcm = (np.tile(sound, 3) * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes()
    options = shop.job(audio="-", out="out/pipe")
    process = subprocess.Popen(
        shop.command("render", *options), cwd=shop.folder, env=shop.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    half = len(pcm) // 4 * 2
    process.stdin.write(pcm[:half])
    process.stdin.flush()
    # A film of the first half can be watched although the sound has not ended.
    _wait_for(lambda: list(shop.folder.glob("home/work/*/live/segment_000001.m4s")) or process.poll() is not None)
    assert process.poll() is None
    process.stdin.write(pcm[half:])
    _, said = process.communicate(timeout=240)
    assert process.returncode in (0, 1), said
    report = shop.report("out/pipe")
    assert report["inputs"]["audio"]["seconds"] == pytest.approx(len(pcm) / 32_000)  # type: ignore[index]
    timing = report["timing"]
    assert 0 < timing["live_delay_ms_p50"] <= timing["live_delay_ms_max"]  # type: ignore[operator]
    assert "deadline_misses" in timing
    heard = wavfile.read(shop.folder / "out/pipe/audio/cleaned.wav")[1]
    assert heard.tobytes() == pcm, "the sound of the film is the sound of the pipe"
    assert not list(shop.folder.glob("home/work/heard-*")), "the recording has gone"

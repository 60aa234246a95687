"""A render's key holds the modules that its job runs: none is missing, none is there that another job runs."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import FROM_CAMERA, FROM_PORTRAIT, LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.paths import REPO_ROOT
from liveavatar.render.collapse import SHORTEST
from liveavatar.render.job import CanvasPicture, RenderJob
from liveavatar.render.pipe import PipeSound
from liveavatar.timing import SAMPLE_RATE
from tasks.render_code import PLACEMENTS, PROMPT, WATCH, RenderCode, engine_code, job_code, settings_part
from tasks.store.keys import code_parts, sources_of
from tests.conftest import make_tiny_model
from tests.render_jobs import noise_job

FRAMES = 12
SETTINGS = RenderSettings(prompt="a calm woman")
KERNELS = "liveavatar/fast/kernels"  # run on a GPU only
POSED = replace(TINY, pose_guided=True, pose_origin=FROM_PORTRAIT)
FAST = replace(TINY, fast_path=True)


def files(code: RenderCode) -> set[str]:
    return set(code_parts(*code.modules, left_out=code.left_out))


def plain(job: RenderJob, folder: Path) -> RenderJob:
    return job


def posed(job: RenderJob, folder: Path) -> RenderJob:
    np.save(folder / "pose.npy", np.zeros((FRAMES, 3), np.float32))
    return replace(job, pose=folder / "pose.npy")


def pasted(job: RenderJob, folder: Path) -> RenderJob:
    width, height = Image.open(job.image).size
    return replace(job, canvas=CanvasPicture(job.image, (0.0, 0.0, width, height), (width / 2, height * 0.36, 57.0)))


def piped(job: RenderJob, folder: Path) -> RenderJob:
    samples = np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE * FRAMES // 25, dtype=np.int16)
    (folder / "heard").mkdir()
    (folder / "heard" / "sound.pcm").write_bytes(samples.tobytes())
    (folder / "heard" / "end").touch()
    return replace(job, sound=PipeSound(folder=folder / "heard", model_dir=folder))


def long(job: RenderJob, folder: Path) -> RenderJob:
    return replace(noise_job(folder, SHORTEST), online=False)


@pytest.mark.parametrize(
    ("config", "job_of", "code"),
    [
        pytest.param(TINY, plain, job_code(TINY, SETTINGS), id="plain"),
        pytest.param(POSED, posed, job_code(POSED, SETTINGS, posed=True), id="with a pose", marks=pytest.mark.nightly),
        pytest.param(
            TINY, pasted, job_code(TINY, SETTINGS, pasted=True), id="into the user's picture", marks=pytest.mark.nightly
        ),
        pytest.param(
            TINY, piped, job_code(TINY, SETTINGS, piped=True), id="sound from a pipe", marks=pytest.mark.nightly
        ),
        pytest.param(TINY, long, job_code(TINY, SETTINGS, watched=True), id="a long video", marks=pytest.mark.nightly),
        pytest.param(FAST, plain, job_code(FAST, SETTINGS, on_gpu=True), id="fast path", marks=pytest.mark.nightly),
    ],
)
def test_a_job_runs_the_code_of_its_key(
    config: ModelConfig, job_of: Callable[[RenderJob, Path], RenderJob], code: RenderCode, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    (model / "config.json").write_text(config.to_json())
    assert read_config(model) == config
    job = job_of(noise_job(tmp_path, FRAMES), tmp_path)
    (tmp_path / "job").write_bytes(pickle.dumps((model, job, config.fast_path)))
    command = [sys.executable, "-m", "tests.tasks.render_alone", str(tmp_path / "job")]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ran = set(json.loads(done.stdout))
    rooms = tuple(name.replace(".", "/") for name in (PLACEMENTS, PROMPT, *WATCH))
    assert {path for path in ran - files(code) if not path.startswith(rooms)} == set()
    assert {path for path in files(code) - ran if not path.startswith(KERNELS)} == set()


def test_placements_run_nothing_else_that_a_key_lacks() -> None:
    """Tests hold placements to the same latents; what they call in other rooms counts.

    The room of prompts does not: the key holds the prompt as it was written for the model.
    """
    room = REPO_ROOT / PLACEMENTS.replace(".", "/")
    modules = [f"{PLACEMENTS}.{path.stem}" for path in room.glob("*.py") if path.stem != "__init__"]
    assert modules
    called = {p.relative_to(REPO_ROOT).as_posix() for p in sources_of(*modules) if room not in p.parents}
    called = {path for path in called if not path.startswith(PROMPT.replace(".", "/"))}
    called = {path for path in called if not path.startswith(tuple(name.replace(".", "/") for name in WATCH))}
    assert called <= files(job_code(LIVE_AVATAR_14B, SETTINGS, on_gpu=True))


def test_kernels_of_gpus_count_on_gpus_alone() -> None:
    on_cpu, on_gpu = (files(job_code(MINI, SETTINGS, on_gpu=on_gpu)) for on_gpu in (False, True))
    assert on_cpu < on_gpu
    assert {path for path in on_gpu - on_cpu if path.startswith("liveavatar/fast/")}
    assert not {path for path in on_cpu if path.startswith("liveavatar/fast/")}


@pytest.mark.parametrize(
    ("code", "fast", "face"),
    [
        pytest.param(job_code(MINI, SETTINGS), False, False, id="mini"),
        pytest.param(job_code(MINI, SETTINGS, posed=True), False, False, id="angles against the camera"),
        pytest.param(job_code(POSED, SETTINGS, posed=True), False, True, id="angles against the portrait"),
        pytest.param(job_code(MINI, SETTINGS, pasted=True), False, True, id="into the user's picture"),
        pytest.param(job_code(MINI, SETTINGS, watched=True), False, True, id="a long video"),
        pytest.param(job_code(MINI, SETTINGS, on_gpu=True), True, False, id="mini on a GPU"),
        pytest.param(job_code(TINY, SETTINGS, on_gpu=True), False, False, id="tiny on a GPU"),
        pytest.param(job_code(TINY, replace(SETTINGS, fp8=True), on_gpu=True), True, False, id="8-bit layers"),
        pytest.param(job_code(TINY, SETTINGS, offload=True, on_gpu=True), True, False, id="layers in host memory"),
        pytest.param(job_code(LIVE_AVATAR_14B, SETTINGS, on_gpu=True), True, False, id="the large model"),
    ],
)
def test_backend_and_pose_decide_the_code(code: RenderCode, fast: bool, face: bool) -> None:
    assert MINI.pose_origin == FROM_CAMERA
    rooms = {path.split("/")[1] for path in files(code)}
    assert ("fast" in rooms, "face" in rooms) == (fast, face)
    assert "distributed" not in rooms
    assert not rooms & {"planning", "quality", "hardware.py", "report", "training", "bench", "prompt"}


@pytest.mark.parametrize("config", [MINI, LIVE_AVATAR_14B])
def test_a_resident_engine_runs_the_code_of_every_job(config: ModelConfig) -> None:
    engine = set(code_parts(*engine_code(config)))
    fast = replace(SETTINGS, fp8=True)
    assert all(files(job_code(config, fast, posed=True, piped=piped)) <= engine for piped in (False, True))
    assert "liveavatar/distributed/tpp.py" in engine


def test_a_key_holds_every_setting() -> None:
    assert settings_part(SETTINGS, MINI).keys() == {field.name for field in fields(RenderSettings)}


@pytest.mark.parametrize(("words", "same"), [("known", True), ("all", False)])
def test_prompts_that_are_heard_alike_have_one_key(words: str, same: bool) -> None:
    angry, furious = (RenderSettings(prompt=f"An {mood} clerk", prompt_words=words) for mood in ("angry", "irritated"))
    assert (settings_part(angry, MINI) == settings_part(furious, MINI)) == same

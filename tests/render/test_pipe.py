"""A render whose sound still arrives: the film of the finished sound, begun before the sound has ended."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.audio.encoders import encoder_kind
from liveavatar.audio.encoders.whisper import whisper_features
from liveavatar.audio.feature_file import save_features
from liveavatar.checkpoints.directory import read_config
from liveavatar.engine.engine import Engine
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import Interrupted
from liveavatar.load import load_engine
from liveavatar.media.pcm import samples
from liveavatar.media.recording import Recording
from liveavatar.render.job import Progress, RenderJob, run_job
from liveavatar.render.pipe import PipeSound
from liveavatar.render.sound import FileSound
from liveavatar.render.timings import timing_summary
from liveavatar.timing import BLOCK_SAMPLES, count_frames
from tests.audio.sounds import syllables
from tests.corrections import tuned_copy
from tests.ranks import group
from tests.released import make_released

SECONDS = 4.4  # ten blocks: two segments of the live video and a part of one
PIECE = 1600  # samples


@pytest.fixture
def pcm() -> bytes:
    return (syllables(SECONDS) * 20_000).astype("<i2").tobytes()


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path) -> RenderJob:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (256, 384, 3), dtype=np.uint8)).save(tmp_path / "face.png")
    (tmp_path / "heard").mkdir()
    (tmp_path / "heard/sound.pcm").touch()
    return RenderJob(
        digest="e" * 64,
        work_dir=tmp_path / "work",
        image=tmp_path / "face.png",
        sound=PipeSound(folder=tmp_path / "heard", model_dir=tiny_model),
        settings=RenderSettings(prompt="a calm woman"),
        online=True,
    )


@pytest.fixture
def engine(tiny_model: Path) -> Engine:
    return load_engine(tiny_model, device="cpu", dtype="float32")


def speak(folder: Path, pcm: bytes, wait: Callable[[int], None]) -> threading.Thread:
    """Write a recording piece by piece in a thread; `wait` gets the samples written before the next piece."""
    recording = Recording(folder)

    def write() -> None:
        with recording.pcm.open("ab") as out:
            for at in range(recording.pcm.stat().st_size, len(pcm), 2 * PIECE):
                wait(at // 2)
                out.write(pcm[at : at + 2 * PIECE])
                out.flush()
        recording.end.touch()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def expected(engine: Engine, job: RenderJob, pcm: bytes, tmp_path: Path) -> str:
    """Digest of the latents of the finished sound."""
    sound = samples(pcm)
    features, audio = tmp_path / "features.pt", tmp_path / "whole.wav"
    save_features(features, whisper_features(sound, engine.config.speech, batch=1))
    Recording(tmp_path / "heard").write_wav(audio)
    whole = FileSound(features=features, audio=audio, num_frames=count_frames(len(sound)))
    return run_job(engine, replace(job, sound=whole, work_dir=tmp_path / "whole")).latents_sha256


def test_live_sound_is_heard_with_the_corrections_of_the_model(tiny_model: Path, pcm: bytes, tmp_path: Path) -> None:
    model = tuned_copy(tiny_model, tmp_path / "tuned")
    config, folder = read_config(model), tmp_path / "heard"
    folder.mkdir()
    (folder / "sound.pcm").touch()
    speak(folder, pcm[: 2 * 4 * BLOCK_SAMPLES], lambda _: None).join()
    sound = PipeSound(folder=folder, model_dir=model).open(config)
    sound.start(0)
    assert sound.ready(0)
    assert sound.ready(1)
    tuned, plain = (
        encoder_kind(read_config(path).speech).load(read_config(path).speech, path).features(samples(pcm)).float()
        for path in (model, tiny_model)
    )
    torch.testing.assert_close(sound.features[0:24], tuned[:, :, :24], atol=2e-3, rtol=1e-3)
    assert (tuned - plain)[:, 1:, :24].abs().max() > 0.05


def test_film_begins_before_the_sound_ends_and_is_that_of_the_whole(
    engine: Engine, job: RenderJob, pcm: bytes, tmp_path: Path
) -> None:
    done = 0  # blocks
    seen: list[int] = []  # blocks done when a piece was spoken
    late = threading.Event()

    def wait(spoken: int) -> None:
        """Speak no more than two blocks ahead of the film: it deadlocks unless blocks come as soon as they can."""
        deadline = time.monotonic() + 30
        while spoken > (done + 3) * BLOCK_SAMPLES:
            if time.monotonic() > deadline:
                late.set()
                return
            time.sleep(0.002)
        seen.append(done)

    def note(progress: Progress) -> None:
        nonlocal done
        done = progress.done

    thread = speak(tmp_path / "heard", pcm, wait)
    result = run_job(engine, job, note)
    thread.join()
    assert not late.is_set()
    assert seen[-1] >= 6, "most blocks were made while the sound was still spoken"
    assert result.num_frames == count_frames(len(pcm) // 2)
    assert result.latents_sha256 == expected(engine, job, pcm, tmp_path)
    timing = timing_summary(result.rows, result.num_frames, result.render_s)
    assert timing["live_delay_ms_max"] >= timing["live_delay_ms_p50"] > 0

    with av.open(str(result.video)) as film:
        assert film.streams.video[0].frames == result.num_frames
        assert float(film.duration) / 1e6 == pytest.approx(SECONDS, abs=0.05)
    assert result.live_dir is not None
    assert "#EXT-X-ENDLIST" in (result.live_dir / "index.m3u8").read_text()
    with av.open(str(result.live_dir / "index.m3u8")) as live:
        heard = np.concatenate([f.to_ndarray().ravel() for f in live.decode(audio=0)])
    assert len(heard) / 48_000 == pytest.approx(SECONDS, abs=0.06)
    spoken = np.repeat(samples(pcm), 3)[: len(heard)]
    assert np.corrcoef(np.abs(spoken), np.abs(heard[: len(spoken)]))[0, 1] > 0.7, "the stream has another sound"


@pytest.mark.nightly
def test_goes_on_after_a_stop(engine: Engine, job: RenderJob, pcm: bytes, tmp_path: Path) -> None:
    done = 0

    def note(progress: Progress) -> None:
        nonlocal done
        done = progress.done

    speak(tmp_path / "heard", pcm, lambda _: None).join()
    with pytest.raises(Interrupted):
        run_job(engine, job, note, lambda: done >= 6)
    result = run_job(engine, replace(job, resume=True), note)
    assert result.first_block == 4
    assert result.latents_sha256 == expected(engine, job, pcm, tmp_path)
    again = run_job(engine, replace(job, resume=True), note)
    assert again.first_block == len(again.rows), "a finished job is not rendered again"
    assert again.video == result.video


def test_less_than_a_block_is_a_film(engine: Engine, job: RenderJob, pcm: bytes, tmp_path: Path) -> None:
    speak(tmp_path / "heard", pcm[:17_000], lambda _: None).join()
    result = run_job(engine, job)
    assert result.num_frames == count_frames(8500)
    assert len(result.rows) == 2


def test_the_large_model_hears_a_pipe_and_goes_on_after_a_stop(tmp_path: Path, job: RenderJob, pcm: bytes) -> None:
    folder = make_released(tmp_path / "model")
    engine = load_engine(folder, device="cpu", dtype="float32")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(job.image)
    settings = RenderSettings(prompt="a calm woman", sample_steps=1, infer_frames=12)
    large = replace(job, settings=settings, sound=PipeSound(folder=tmp_path / "heard", model_dir=folder))
    done = 0

    def note(progress: Progress) -> None:
        nonlocal done
        done = progress.done

    speak(tmp_path / "heard", pcm[: 2 * 6 * BLOCK_SAMPLES], lambda _: None).join()
    with pytest.raises(Interrupted):
        run_job(engine, large, note, lambda: done >= 5)
    result = run_job(engine, replace(large, resume=True), note)
    assert (result.first_block, result.num_frames) == (4, 72)
    whole = run_job(engine, replace(large, work_dir=tmp_path / "whole"))
    assert result.latents_sha256 == whole.latents_sha256


@pytest.mark.nightly
def test_a_group_hears_a_pipe_with_the_bits_of_one_process_and_outlasts_a_pause(
    tmp_path: Path, job: RenderJob, pcm: bytes
) -> None:
    folder = make_released(tmp_path / "model")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(job.image)
    settings = RenderSettings(prompt="a calm woman", sample_steps=2, infer_frames=12)
    large = replace(job, settings=settings, sound=PipeSound(folder=tmp_path / "heard", model_dir=folder))
    done, limit_s, paused = 0, 2.0, False

    def note(progress: Progress) -> None:
        nonlocal done
        done = progress.done

    def wait(spoken: int) -> None:
        """Speak about two blocks ahead of the video, and once pause for longer than a rank waits for a message."""
        nonlocal paused
        deadline = time.monotonic() + 30
        while spoken > (done + 3) * BLOCK_SAMPLES and time.monotonic() < deadline:
            time.sleep(0.002)
        if done >= 3 and not paused:
            paused = True
            time.sleep(1.5 * limit_s)

    with group(folder, 2, False, jobs=1, limit_s=limit_s) as (member, processes):
        thread = speak(tmp_path / "heard", pcm[: 2 * 7 * BLOCK_SAMPLES], wait)
        made = run_job(member.engine(), large, note)
        thread.join()
        assert all(process.is_alive() or process.exitcode == 0 for process in processes)
    assert paused
    assert made.num_frames == 84
    assert timing_summary(made.rows, made.num_frames, made.render_s)["live_delay_ms_p50"] > 0
    alone = run_job(load_engine(folder, device="cpu", dtype="float32"), replace(large, work_dir=tmp_path / "alone"))
    assert made.latents_sha256 == alone.latents_sha256

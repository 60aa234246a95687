"""The block loop: resumed == uninterrupted, overlapped == sequential, prompt, seed and sound matter."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel, save_model
from liveavatar.config import FROM_PORTRAIT, TINY, ModelConfig
from liveavatar.engine.decoder import DecodedBlock, HostDecoder
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import Block, StreamJob, TensorFeatures
from liveavatar.engine.placement import Queued
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.single import Single
from liveavatar.errors import CheckpointError, InputError
from liveavatar.load import load_engine
from liveavatar.model.dit import CausalDiT
from liveavatar.model.text import PromptEncoder
from liveavatar.model.vae import build_vae
from tests.job_changes import changed

SIZE = (128, 128)


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights without the zeros that a fresh network starts from, so that everything matters."""
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(
        config=TINY,
        dit=lively(CausalDiT(TINY.dit)),
        vae=lively(build_vae(TINY.vae)),
        text=lively(PromptEncoder(TINY.text)),
    )


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> Engine:
    return engine_of(model)


def engine_of(model: LoadedModel) -> Engine:
    cpu = torch.device("cpu")
    return Engine(PlainBackend(model, cpu), prompt_encoder(model, None, cpu))


def make_job(num_frames: int = 75, **changes: object) -> StreamJob:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(5, 768, 12 * 12))).float()
    job = StreamJob(
        image=rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8),
        settings=RenderSettings(prompt="a calm woman in warm light", infer_frames=24),
        features=TensorFeatures(features),
        num_frames=num_frames,
    )
    return changed(job, **changes)


def latents(blocks: list[Block]) -> torch.Tensor:
    return torch.stack([b.latents for b in blocks])


def frames(blocks: list[Block]) -> np.ndarray:
    return np.concatenate([b.frames for b in blocks if b.frames is not None])


def test_every_frame_is_made_once(engine: Engine) -> None:
    made = list(engine.open(make_job(num_frames=75)).blocks())
    assert [b.index for b in made] == list(range(7))
    assert frames(made).shape == (75, *SIZE, 3)


def test_overlapped_decoding_equals_sequential(engine: Engine) -> None:
    """With as many threads for each block, which decide the order of sums on some CPUs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    overlapped = list(engine.open(make_job()).blocks())
    assert torch.get_num_threads() == 2
    stream = engine.open(make_job())
    sequential = [stream.next_block() for _ in overlapped]
    stream = engine.open(make_job())
    later = [b.latents for b in stream.blocks(decode=False)]
    decoded = [stream.decode(x[None], index) for index, x in enumerate(later)]
    torch.set_num_threads(before)
    for made in (latents(sequential), torch.stack(later)):
        assert torch.equal(latents(overlapped), made)
    for shown in (frames(sequential), np.concatenate(decoded)[:75]):
        assert np.array_equal(frames(overlapped), shown)


def test_threads_that_come_later_find_the_number_that_was_set(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the decoder's thread meets torch for the first time while the next block is denoised with fewer."""
    met, queue, decode = threading.Event(), Single.queue, HostDecoder._decode

    def wait_for_the_decoder(self: Single, index: int) -> Queued:
        if index > 1:
            assert met.wait(30)
        return queue(self, index)

    def meet_late(self: HostDecoder, x: torch.Tensor, index: int, with_state: bool) -> DecodedBlock:
        if index == 1:
            time.sleep(0.1)
            torch.get_num_threads()
            met.set()
        return decode(self, x, index, with_state)

    monkeypatch.setattr(Single, "queue", wait_for_the_decoder)
    monkeypatch.setattr(HostDecoder, "_decode", meet_late)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    list(engine.open(make_job()).blocks())
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(torch.get_num_threads).result()
    torch.set_num_threads(before)
    assert later == 2


@pytest.mark.parametrize("threads", [pytest.param(1, id="sequential"), pytest.param(2, id="overlapped")])
@pytest.mark.parametrize("reanchor", [False, True], ids=["fixed reference", "reference from the second clip on"])
def test_resumed_stream_is_bit_identical(model: LoadedModel, threads: int, reanchor: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    engine = engine_of(replace(model, config=replace(TINY, reanchor=reanchor)))
    whole, states = [], {}
    for block in engine.open(make_job(num_frames=120)).blocks(snapshot_every=4):
        whole.append(block)
        if block.state is not None:
            states[block.index + 1] = {name: t.clone() for name, t in block.state.items()}
    assert sorted(states) == [4, 8]
    for position, state in states.items():
        resumed = engine.open(make_job(num_frames=120))
        resumed.restore(state)
        rest = list(resumed.blocks())
        assert [b.index for b in rest] == list(range(position, 10))
        assert torch.equal(latents(rest), latents(whole[position:]))
        assert np.array_equal(frames(rest), frames(whole[position:]))
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seed": 421}, id="seed"),
        pytest.param({"prompt": "a lively man in cold light"}, id="prompt"),
        pytest.param({"sample_steps": 3}, id="steps"),
        pytest.param({"infer_frames": 48}, id="clip length"),
        pytest.param({"features": TensorFeatures(torch.zeros(5, 768, 144))}, id="sound"),
    ],
)
def test_each_input_changes_the_latents(engine: Engine, changes: dict) -> None:
    job = make_job(num_frames=36)
    base = latents(list(engine.open(job).blocks(decode=False)))
    again = latents(list(engine.open(job).blocks(decode=False)))
    other = latents(list(engine.open(changed(job, **changes)).blocks(decode=False)))
    assert torch.equal(base, again)
    assert not torch.equal(base, other)


def test_future_sound_does_not_reach_back(engine: Engine) -> None:
    features = make_job().features[0:144]
    changed = features.clone()
    changed[:, :, 24:] += 1
    base = latents(list(engine.open(make_job(num_frames=48)).blocks(decode=False)))
    other = latents(list(engine.open(make_job(48, features=TensorFeatures(changed))).blocks(decode=False)))
    assert torch.equal(base[:2], other[:2])
    assert not torch.equal(base[2:], other[2:])


def guided(engine: Engine, config: ModelConfig = TINY) -> Engine:
    """The same networks as a model that was trained with head pose."""
    backend = copy.copy(engine.backend)
    backend.config = replace(config, pose_guided=True)
    return Engine(backend, engine.encode_prompt)


def nod(num_frames: int) -> np.ndarray:
    return (0.2 * np.sin(np.arange(num_frames) / 5)[:, None] * [0.3, 1, 0]).astype(np.float32)


def test_head_pose_drives_its_own_blocks_and_later_ones(engine: Engine) -> None:
    engine = guided(engine)
    free, told = (latents(list(engine.open(make_job(48, pose=pose)).blocks(decode=False))) for pose in (None, nod(48)))
    later = nod(48)
    later[24:] += 0.1
    other = latents(list(engine.open(make_job(48, pose=later)).blocks(decode=False)))
    assert not torch.equal(free[:1], told[:1])
    assert torch.equal(told[:2], other[:2])
    assert not torch.equal(told[2:3], other[2:3])


def with_eyes(num_frames: int, lids: float = 0.0, gaze: float = 0.0) -> np.ndarray:
    eyes = np.tile(np.float32([lids, gaze, gaze]), (num_frames, 1))
    return np.concatenate((nod(num_frames), eyes), 1)


@pytest.mark.parametrize("length", [pytest.param(5, id="track ends early"), pytest.param(500, id="track is longer")])
@pytest.mark.parametrize("eyes", [pytest.param(False, id="head alone"), pytest.param(True, id="head and eyes")])
def test_guided_stream_resumes_bit_identical(engine: Engine, length: int, eyes: bool) -> None:
    engine = guided(engine, replace(TINY, lids_conditioned=eyes, gaze_conditioned=eyes))
    job = make_job(72, pose=with_eyes(length, 0.7, 0.1) if eyes else nod(length))
    whole, state = [], {}
    for block in engine.open(job).blocks(decode=False, snapshot_every=4):
        whole.append(block)
        state = state or {name: t.clone() for name, t in (block.state or {}).items()}
    resumed = engine.open(job)
    resumed.restore(state)
    assert torch.equal(latents(list(resumed.blocks(decode=False))), latents(whole[4:]))


@pytest.mark.parametrize("length", [pytest.param(24, id="track ends early"), pytest.param(48, id="whole track")])
def test_head_as_in_the_portrait_is_zero_for_a_model_that_counts_from_it(engine: Engine, length: int) -> None:
    head = np.array([0.11, -0.07, 0.03], np.float32)
    still = np.tile(head, (length, 1))
    camera, portrait = guided(engine), guided(engine, replace(TINY, pose_origin=FROM_PORTRAIT))

    def made(engine: Engine, pose: np.ndarray, portrait_pose: np.ndarray | None = None) -> torch.Tensor:
        job = make_job(48, pose=pose, portrait_pose=portrait_pose)
        return latents(list(engine.open(job).blocks(decode=False)))

    assert torch.equal(made(portrait, still, head), made(camera, np.zeros_like(still)))
    assert torch.equal(made(camera, still, head), made(camera, still)), "it counts from the camera"
    assert not torch.equal(made(portrait, still, head), made(camera, still))
    with pytest.raises(InputError, match="give portrait_pose along with pose"):
        portrait.open(make_job(48, pose=still))
    assert portrait.open(make_job(48)).num_blocks == 4, "without a pose nothing is needed"


def test_model_without_pose_refuses_it(engine: Engine) -> None:
    with pytest.raises(InputError, match="tiny was trained without head pose"):
        engine.open(make_job(pose=nod(48)))
    with pytest.raises(InputError, match="finite"):
        guided(engine).open(make_job(pose=np.full((48, 3), np.nan, np.float32)))
    with pytest.raises(InputError, match=r"shape \(48, 5\); give \[frames, 3\]"):
        guided(engine).open(make_job(pose=with_eyes(48)[:, :5]))
    for bad in (with_eyes(48, 1.1), with_eyes(48, -0.1), with_eyes(48, 0, np.inf)):
        with pytest.raises(InputError, match="eyes are out of range"):
            guided(engine).open(make_job(pose=bad))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"infer_frames": 50}, "--infer_frames 50", id="clip is no number of blocks"),
        pytest.param({"infer_frames": 0}, "--infer_frames 0", id="empty clip"),
        pytest.param({"sample_steps": 0}, "--sample_steps 0", id="no steps"),
        pytest.param({"sample_steps": 9}, "--sample_steps 9", id="too many steps"),
    ],
)
def test_bad_job_is_refused(engine: Engine, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.open(make_job(**changes))


def test_saved_model_streams_like_the_one_in_memory(model: LoadedModel, engine: Engine, tmp_path: Path) -> None:
    parts = {name: getattr(model, name).state_dict() for name in ("dit", "vae", "text")}
    save_model(tmp_path, TINY, parts, dtype=torch.float32)
    loaded = load_engine(tmp_path, device="cpu", dtype="float32")
    job = make_job(num_frames=24)
    assert torch.equal(latents(list(engine.open(job).blocks())), latents(list(loaded.open(job).blocks())))


def test_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_engine(tmp_path)


def test_given_eyes_drive_their_own_blocks_and_later_ones(engine: Engine) -> None:
    both = guided(engine, replace(TINY, lids_conditioned=True, gaze_conditioned=True))
    lids = guided(engine, replace(TINY, lids_conditioned=True))

    def made(engine: Engine, pose: np.ndarray) -> torch.Tensor:
        return latents(list(engine.open(make_job(48, pose=pose)).blocks(decode=False)))

    base = with_eyes(48)
    for column, engines in ((3, (both, lids)), (5, (both,))):
        later = base.copy()
        later[24:, column] = 0.6
        for told in engines:
            before, after = made(told, base), made(told, later)
            assert torch.equal(before[:2], after[:2])
            assert not torch.equal(before[2:3], after[2:3])
    aside = with_eyes(48, gaze=0.3)
    assert torch.equal(made(lids, aside), made(lids, base)), "it is not told the gaze"
    assert torch.equal(made(lids, base[:, :4]), made(lids, base))
    assert torch.equal(made(guided(engine), with_eyes(48, 1, 0.3)), made(guided(engine), nod(48))), "nor the lids"


def test_eyes_that_are_not_given_are_seeded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    told = guided(engine, replace(TINY, lids_conditioned=True, gaze_conditioned=True))

    def made(pose: np.ndarray, lids: float, gaze: float) -> torch.Tensor:
        track = np.array([[lids, gaze, gaze]], np.float32)
        monkeypatch.setattr("liveavatar.engine.denoiser.eye_track", lambda _seed, _first, count: track.repeat(count, 0))
        return latents(list(told.open(make_job(48, pose=pose)).blocks(decode=False)))

    wanted = made(nod(48), 0.5, 0.125)
    assert torch.equal(made(with_eyes(48, 0.5, 0.125), 0, 0), wanted)
    assert torch.equal(made(with_eyes(48, 0.5)[:, :4], 0, 0.125), wanted), "lids given, gaze seeded"
    assert torch.equal(made(with_eyes(48, np.nan, 0.125), 0.5, 0), wanted), "gaze given, lids seeded"
    assert not torch.equal(made(with_eyes(48, 0.5, 0.125), 0, 0), made(nod(48), 0, 0))
    short = with_eyes(26, 0.5, 0.125)
    ended, held = made(short, 0, 0), made(short, 0.5, 0.125)
    assert torch.equal(ended[:2], held[:2])
    assert not torch.equal(ended[2:3], held[2:3]), "after the end of the track eyes go on as seeded"


@pytest.mark.parametrize("lids_conditioned", [True, False])
@pytest.mark.parametrize("gaze_conditioned", [True, False])
def test_a_model_that_is_told_its_eyes_moves_them_by_the_seed(
    engine: Engine, lids_conditioned: bool, gaze_conditioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = guided(
        engine, replace(TINY, lids_conditioned=lids_conditioned, gaze_conditioned=lids_conditioned and gaze_conditioned)
    )

    def rendered(*, lids: float, gaze: float) -> torch.Tensor:
        track = np.array([[lids, gaze, gaze]], np.float32)
        monkeypatch.setattr("liveavatar.engine.denoiser.eye_track", lambda _seed, _first, count: track.repeat(count, 0))
        return latents(list(told.open(make_job(72)).blocks(decode=False)))

    still = rendered(lids=0, gaze=0)
    assert torch.equal(rendered(lids=1, gaze=0), still) is not lids_conditioned
    assert torch.equal(rendered(lids=0, gaze=0.1), still) is not (lids_conditioned and gaze_conditioned)

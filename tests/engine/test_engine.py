"""The block loop: resumed == uninterrupted, overlapped == sequential, prompt, seed and sound matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import FROM_PORTRAIT, TINY
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import TensorFeatures
from liveavatar.errors import InputError
from tests.engine.jobs import SIZE, engine_of, frames, guided, latents, make_job, nod, with_eyes
from tests.job_changes import changed


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


def test_head_pose_drives_its_own_blocks_and_later_ones(engine: Engine) -> None:
    engine = guided(engine)
    free, told = (latents(list(engine.open(make_job(48, pose=pose)).blocks(decode=False))) for pose in (None, nod(48)))
    later = nod(48)
    later[24:] += 0.1
    other = latents(list(engine.open(make_job(48, pose=later)).blocks(decode=False)))
    assert not torch.equal(free[:1], told[:1])
    assert torch.equal(told[:2], other[:2])
    assert not torch.equal(told[2:3], other[2:3])


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
    assert torch.equal(made(lids, aside), made(lids, base)), "it has no gaze condition"
    assert torch.equal(made(lids, base[:, :4]), made(lids, base))
    assert torch.equal(made(guided(engine), with_eyes(48, 1, 0.3)), made(guided(engine), nod(48))), "nor the lids"

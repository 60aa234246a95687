"""Clips become aligned, normalised latents; a share of the windows refers to the other photo and keeps its prompt."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model, save_model
from liveavatar.config import FROM_PORTRAIT, MINI, TINY
from liveavatar.model.text import tokenize_batch
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.pose.blinks import blink
from liveavatar.pose.track import LOOK_SCALE, POSE_SCALE
from liveavatar.training import export, features, latent_set, latents, runtime
from liveavatar.training.corpus.head.motion import FOLLOW
from liveavatar.training.data import load_clips
from liveavatar.training.features import FeatureBank
from liveavatar.training.flow import drop_conditions
from liveavatar.training.latents import (
    OTHER_PHOTO_SHARE,
    LatentSet,
    WindowSampler,
    cut_window,
    encode_clips,
    normalised,
)
from tests.corrections import write_corrections
from tests.training import toy
from tests.training.conftest import ToyRun

HISTORY = TINY.dit.audio_history_frames


@pytest.fixture(scope="module")
def vae() -> CompactVAE:
    torch.manual_seed(0)
    return CompactVAE(TINY.vae).eval()


@pytest.fixture(scope="module")
def data(corpus: ToyRun, rank: runtime.TrainRank, vae: CompactVAE) -> LatentSet:
    """Portraits of the toy corpus."""
    clips = load_clips(corpus.clips, "train", rank.device)[-1]
    return encode_clips(clips, vae, TINY, rank, 0)


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    return FeatureBank(torch.randn(400, 5, 8), torch.tensor([[0, 200], [0, 200], [0, 200]]), HISTORY)


@torch.no_grad()
def test_other_photo_is_encoded_as_it_is_and_changes_with_the_clip(
    corpus: ToyRun, rank: runtime.TrainRank, vae: CompactVAE, data: LatentSet
) -> None:
    clips = load_clips(corpus.clips, "train", rank.device)[-1]
    assert (clips.others.float().mean((0, 1, 2)) < clips.frames[:, -1].float().mean((0, 1, 2)))[1:].all(), "warm light"
    # A clip whose photo is its other photo tells what must come out, for every augmentation.
    swapped = clips.frames.clone()
    swapped[:, -1] = clips.others
    for augment in range(3):
        made, wanted = (encode_clips(c, vae, TINY, rank, augment) for c in (clips, replace(clips, frames=swapped)))
        assert torch.equal(made.other, wanted.reference)
        assert torch.equal(made.latents, wanted.latents)
        assert not torch.equal(made.other, made.reference)
    assert torch.equal(data.other_tokens, tokenize_batch(clips.other_captions, TINY.text))
    assert not torch.equal(data.other_tokens, data.tokens)


def test_head_angles_count_from_the_camera_or_from_the_photos(
    corpus: ToyRun, rank: runtime.TrainRank, vae: CompactVAE, data: LatentSet
) -> None:
    clips = load_clips(corpus.clips, "train", rank.device)[-1]
    turned = clips.head.clone()
    turned[:, -1] = torch.tensor([0.1, -0.2, 0.05])
    clips = replace(clips, head=turned)
    portrait = replace(TINY, pose_origin=FROM_PORTRAIT)
    assert torch.equal(encode_clips(clips, vae, TINY, rank, 0).head, data.head)
    told, mirrored = (encode_clips(clips, vae, portrait, rank, augment).head for augment in (0, 1))
    torch.testing.assert_close(told, data.head - turned[:, -1:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mirrored, (data.head - turned[:, -1:]) * torch.tensor([-1.0, 1.0, -1.0]))


def test_the_encoder_of_a_model_and_its_statistics_are_kept(
    corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    export.export_random("tiny", tmp_path / "model")
    stored = read_config(tmp_path / "model")
    mean = tuple(0.1 * i for i in range(TINY.vae.z_dim))
    std = tuple(0.5 + 0.1 * i for i in range(TINY.vae.z_dim))
    stored = replace(stored, vae=replace(stored.vae, mean=mean, std=std, output_sharpen=0.3))
    weights = load_model(tmp_path / "model", "cpu", torch.float32, parts=("vae",)).vae.state_dict()
    save_model(tmp_path / "model", stored, {"vae": weights})
    out = tmp_path / "run"
    out.mkdir()
    options = {
        "data": corpus.clips, "speech": corpus.speech, "autoencoder": None, "speech_encoder": str(corpus.encoder),
        "probe_seconds": 0.1, "reader_seconds": 0.1, "only_speech": False, "statistics": None, "out": out,
    }  # fmt: skip
    latents.encode_stage(corpus.args(**options, model=tmp_path / "model"), rank)
    assert read_config(out).vae == stored.vae
    saved = runtime.load_checkpoint(out / "autoencoder.pt", rank.device)["average"]
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in weights.items())
    vae = CompactVAE(stored.vae).eval()
    vae.load_state_dict(weights)
    clips = load_clips(corpus.clips, "train", rank.device)[-1]
    with torch.no_grad():
        wanted = encode_clips(clips, vae, stored, rank, 0).latents  # as the model encodes a portrait, normalised
    made = latent_set.load_latents(out, "train", rank.device)[-1].latents[: len(wanted)]
    torch.testing.assert_close(made, wanted, atol=2e-2, rtol=0)


def test_a_share_of_the_windows_refers_to_it_and_keeps_its_prompt(data: LatentSet, bank: FeatureBank) -> None:
    generator = torch.Generator().manual_seed(0)
    window = WindowSampler([data], bank, 2, generator).sample(600)
    bound = window.bound
    assert bound is not None
    assert bound.float().mean() == pytest.approx(OTHER_PHOTO_SHARE, abs=0.06)
    assert set(map(tuple, window.tokens[bound].tolist())) == set(map(tuple, data.other_tokens.tolist()))
    assert set(map(tuple, window.tokens[~bound].tolist())) == set(map(tuple, data.tokens.tolist()))
    for chosen, photos in ((bound, data.other), (~bound, data.reference)):
        distance = (window.reference[chosen][:, None] - photos.float()[None]).flatten(2).abs().amax(2)
        assert distance.amin(1).max() == 0
    dropped = drop_conditions(window, generator)
    wordless = ~dropped.tokens.any(1)
    assert wordless[~bound].any()
    assert not wordless[bound].any()


def test_a_clip_without_other_photo_is_as_before(data: LatentSet, bank: FeatureBank) -> None:
    plain = replace(data, other=data.reference, other_tokens=data.tokens)
    clips = torch.tensor([0, 1])
    window = cut_window(plain, bank, clips, torch.tensor([0, 1]), 2, None, torch.tensor([True, True]))
    alone = cut_window(plain, bank, clips, torch.tensor([0, 1]), 2)
    assert window.bound is not None
    assert not window.bound.any(), "its prompt may be dropped"
    assert alone.bound is None
    assert torch.equal(window.reference, alone.reference)
    assert torch.equal(window.tokens, alone.tokens)


def test_older_folders_load(
    corpus: ToyRun, rank: runtime.TrainRank, vae: CompactVAE, data: LatentSet, tmp_path: Path
) -> None:
    """Clips rendered before there were other photos."""
    shutil.copytree(corpus.clips, tmp_path / "clips")
    for file in (tmp_path / "clips").glob("*.other.npy"):
        file.unlink()
    clips = load_clips(tmp_path / "clips", "train", rank.device)[-1]
    old = encode_clips(clips, vae, TINY, rank, 0)
    assert torch.equal(old.latents, data.latents)
    assert torch.equal(old.other, old.reference)
    assert torch.equal(old.other_tokens, old.tokens)


def test_other_photos_are_normalised_like_photos(data: LatentSet) -> None:
    cfg = replace(TINY, vae=replace(TINY.vae, mean=(0.5,) * 8, std=(2.0,) * 8))
    (made,) = normalised([data], cfg)
    torch.testing.assert_close(made.other.float(), (data.other.float() - 0.5) / 2, atol=2e-3, rtol=2e-3)
    (same,) = normalised([replace(data, other=data.reference)], cfg)
    assert torch.equal(same.other, same.reference)


def test_latents_are_normalised_and_aligned(encoded: ToyRun, rank: runtime.TrainRank) -> None:
    cfg = read_config(encoded.run)
    sets = latent_set.load_latents(encoded.run, "train", rank.device)
    assert len(sets) == 2, "one set per orientation"
    flat = torch.cat([s.latents.transpose(0, 1).flatten(1) for s in sets], 1).float()
    assert flat.mean(1).abs().max() < 0.05
    assert (flat.std(1) - 1).abs().max() < 0.05
    bank = features.load_bank(encoded.run, "train", 9, rank.device)
    tracks = torch.tensor([1, 1])
    a = bank.window(tracks, torch.tensor([0, 1]), 2)
    assert a.shape == (2, cfg.speech.num_states, cfg.speech.dim, 9 + 24)
    assert torch.equal(a[0, ..., 9 + 12 :], a[1, ..., 9 : 9 + 12]), "a block's features do not depend on the window"
    assert torch.equal(a[0, ..., :9], a[0, ..., 9:10].expand(-1, -1, 9)), "history before the track is its first frame"
    b = bank.window(tracks, torch.tensor([0, 1]), 2, torch.tensor([0, 2]))
    assert torch.equal(a[0], b[0])
    alike = torch.cosine_similarity(a[1].flatten(), b[1].flatten(), 0)
    assert 0.5 < alike < 0.999, "another recording sounds different, yet says the same"


def test_head_and_eyes_are_stored_per_latent_and_mirrored_with_the_picture(
    encoded: ToyRun, rank: runtime.TrainRank
) -> None:
    photo = toy.sway(toy.FRAMES)
    assert abs(photo) > 0.5, "the photo looks elsewhere than the camera does"
    true = torch.from_numpy(0.2 * (toy.sway(np.arange(toy.FRAMES)) - photo)).float().view(-1, 4).mean(1)
    assert read_config(encoded.run).pose_origin == FROM_PORTRAIT
    bank = features.load_bank(encoded.run, "train", 9, rank.device)
    for data in latent_set.load_latents(encoded.run, "train", rank.device):
        plain, flipped, coloured = data.head.chunk(3)
        torch.testing.assert_close(plain[..., 0], true.expand(len(plain), -1), atol=1e-6, rtol=1e-5)
        assert torch.equal(flipped, plain * torch.tensor([-1.0, 1.0, -1.0]))
        assert torch.equal(coloured, plain)
        window = latents.cut_window(data, bank, torch.tensor([0]), torch.tensor([1]), 2)
        assert window.pose is not None
        assert window.pose.shape == (1, 7, *window.latents.shape[2:])
        torch.testing.assert_close(window.pose[0, 0, :, 0, 0], true[3:9] / POSE_SCALE, atol=1e-5, rtol=1e-5)
        assert (window.pose[:, 3] == 1).all()
        shut = torch.from_numpy(blink(np.arange(toy.FRAMES) / 25, at=0.6)).float().view(-1, 4).mean(1)
        assert shut.max() > 0.4
        torch.testing.assert_close(window.pose[0, 4, :, 0, 0], shut[3:9], atol=1e-3, rtol=1e-3)  # labels are in fp16
        turned = torch.from_numpy(0.2 * toy.sway(np.arange(toy.FRAMES))).float().view(-1, 4).mean(1)
        yaw = (toy.GAZE[0] + FOLLOW * turned[3:9]) / LOOK_SCALE
        torch.testing.assert_close(window.pose[0, 5, :, 0, 0], yaw, atol=1e-4, rtol=1e-4)
        there, back, _ = data.eyes.chunk(3)
        assert torch.equal(back, there * torch.tensor([1.0, -1.0, 1.0]))


@pytest.mark.nightly
def test_a_run_that_goes_on_keeps_the_statistics_of_its_latents(
    encoded: ToyRun, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    export.export_random("tiny", tmp_path / "before")
    kept = read_config(tmp_path / "before").vae
    for file in encoded.run.glob("features_*.pt"):  # speech was encoded already
        shutil.copy(file, tmp_path)
    latents.encode_stage(
        encoded.args(
            data=encoded.clips, speech=encoded.speech, autoencoder=encoded.run, speech_encoder=str(encoded.encoder),
            out=tmp_path, probe_seconds=0.1, reader_seconds=0.1, only_speech=False, statistics=tmp_path / "before",
        ),
        rank,
    )  # fmt: skip
    assert read_config(tmp_path).vae == kept
    assert read_config(encoded.run).vae != kept


def test_speech_is_heard_by_a_tuned_encoder(corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path) -> None:
    file, heard = write_corrections(tmp_path / "corrections", corpus.encoder), []
    for name, tuning in (("plain", None), ("tuned", file)):
        options = {"speech": corpus.speech, "speech_encoder": str(corpus.encoder), "only_speech": True}
        (tmp_path / name).mkdir()
        (tmp_path / name / "features_train_0.pt").touch()  # what is there is not made again
        latents.encode_stage(corpus.args(**options, out=tmp_path / name, speech_tuning=tuning), rank)
        heard.append(features.load_bank(tmp_path / name, "eval", HISTORY, rank.device).rows)
    plain, tuned = heard
    assert torch.equal(plain[:, 0], tuned[:, 0]), "corrections begin behind the first state"
    assert (plain - tuned)[:, 1:].abs().max() > 0.1


def test_a_tuned_encoder_is_judged_as_a_model_hears_it(
    corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One window of sound, where `mini` takes the mean over three."""
    file, shifts = write_corrections(tmp_path / "corrections", corpus.encoder), []
    monkeypatch.setattr(latents, "speech_features", lambda *given: shifts.append(given[2].shifts) or {})
    for name, tuning in (("plain", None), ("tuned", file)):
        options = {"speech": corpus.speech, "speech_encoder": str(corpus.encoder), "only_speech": True}
        args = corpus.args(**options, preset="mini", out=tmp_path / name, speech_tuning=tuning)
        latents.encode_stage(args, rank)
    assert shifts == [MINI.speech.shifts] * 2 + [(0,)] * 2

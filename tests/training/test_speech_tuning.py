"""The speech encoder is tuned to the mouth of the renders, on frames that lie where the sound has them."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liveavatar.audio.encoders import low_rank
from liveavatar.audio.encoders.whisper_network import WhisperEncoder, load_encoder
from liveavatar.audio.encoders.windows import window_samples
from liveavatar.config import TINY
from liveavatar.timing import SAMPLES_PER_FRAME
from liveavatar.training import runtime, speech_tuning
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.speech.phonemes import Viseme
from liveavatar.training.corpus.speech.tracks import TrackInfo, load_tracks, write_index, write_track
from liveavatar.training.speech_tuning import Mouths, Sounds, Tuning, gather_sounds

ASSETS = Path(__file__).parent / "corpus" / "head_assets"
SAID = (Viseme.SIL, Viseme.A, Viseme.UW, Viseme.I, Viseme.PBM, Viseme.A)
EACH = 0.5  # seconds of a viseme


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A track of both splits, each viseme a tone of its own."""
    folder = tmp_path_factory.mktemp("spoken")
    events = [(i * EACH, (i + 1) * EACH, int(viseme)) for i, viseme in enumerate(SAID)]
    time = np.arange(int(EACH * 16_000)) / 16_000
    audio = np.concatenate([0.3 * np.sin(2 * np.pi * 200 * v * time) for v in SAID]).astype(np.float32)
    infos = [
        TrackInfo(id=split, file=f"{split}.ogg", voice="tone", split=split, seconds=3.0, events=events, text=[])
        for split in ("train", "eval")
    ]
    for info in infos:
        write_track(folder, info, audio)
    write_index(folder, infos)
    return folder


@pytest.fixture(scope="module")
def mouths() -> Mouths:
    return Mouths(HeadAssets(ASSETS))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a small speech encoder of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("small") / "encoder.safetensors"
    state = WhisperEncoder(80, 1500, 64, 2).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def trainer_of(small: Path, sounds: Sounds, rank: runtime.TrainRank, batch: int = 4) -> Tuning:
    args = argparse.Namespace(speech_encoder=str(small), rank=4, rate=3e-3, batch=batch, balance=0.5, seed=0)
    return Tuning(args, TINY.speech, sounds, rank)


def middle(values: Tensor, viseme: Viseme) -> Tensor:
    """Values [V] in the middle of a viseme."""
    return values[int((SAID.index(viseme) + 0.5) * EACH * 25)]


def test_values_are_those_of_the_rendered_mouth(spoken: Path, mouths: Mouths) -> None:
    values = mouths.values(load_tracks(spoken, "train")[0])
    assert values.shape == (72, 2), "whole blocks of 75 frames"
    openness, width = values.unbind(1)
    assert float(middle(values, Viseme.A)[0]) == pytest.approx(float(openness.max()), rel=0.2)
    assert middle(values, Viseme.SIL)[0] < 0.2 * openness.max()
    assert middle(values, Viseme.PBM)[0] < 0.2 * openness.max()
    assert middle(values, Viseme.UW)[1] < middle(values, Viseme.SIL)[1] < middle(values, Viseme.I)[1]
    assert width.std() > 0.01


def test_sounds_lie_between_silence(spoken: Path, mouths: Mouths) -> None:
    tracks = load_tracks(spoken, "train", (1.0, 0.9))
    sounds = gather_sounds(tracks, 2, mouths, 1000, torch.device("cpu"))
    assert sounds.tracks[:, 2].tolist() == [72, 72, 72, 72]
    for number, (sample, frame, count) in enumerate(sounds.tracks.tolist()):
        track = tracks[number % 2]
        torch.testing.assert_close(sounds.values_FV[frame : frame + count], mouths.values(track))
        heard = sounds.audio_S[sample : sample + count * SAMPLES_PER_FRAME].numpy()
        same = np.array_equal(heard, track.audio[: len(heard)])
        assert same == (number < 2), "the second recording sounds otherwise"
        assert not sounds.audio_S[sample - 1000 : sample].any()
    assert not sounds.audio_S[-1000:].any()


class Pass(nn.Module):
    """Hands windows on as they are."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows


class Knowing(nn.Module):
    """Reads the values off sound whose samples are the openness and whose width is its square."""

    def __init__(self, trainer: Tuning, late: int) -> None:
        super().__init__()
        self.mean, self.std, self.late = trainer.mean, trainer.std, late
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, windows: Tensor) -> Tensor:
        openness = windows.unflatten(1, (-1, SAMPLES_PER_FRAME)).mean(2).roll(self.late, 1)
        return (torch.stack((openness, openness.square()), 2) - self.mean) / self.std + self.nothing


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_a_synthesiser_with_little_speech_is_drawn_more_often(balance: float, share: float) -> None:
    rows = torch.tensor([[0, 0, 300], [0, 0, 600], [0, 0, 100]])
    weights = Sounds(torch.zeros(0), torch.zeros(0, 2), rows, ["piper", "piper", "kokoro"]).weights(balance)
    assert float(weights[2] / weights.sum()) == pytest.approx(share)
    assert float(weights[1] / weights[0]) == pytest.approx(2)


@pytest.mark.parametrize("late", [0, 1, -1])
def test_who_knows_the_truth_is_right_and_a_frame_off_is_wrong(
    small: Path, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    monkeypatch.setattr(speech_tuning, "JITTER", 0)
    window, counts = window_samples(TINY.speech)[0], (36, 228)
    openness = torch.randn(sum(counts), generator=torch.Generator().manual_seed(0))
    audio, rows, frame = [torch.zeros(window)], [], 0
    for count in counts:
        rows.append((sum(map(len, audio)), frame, count))
        audio += [openness[frame : frame + count].repeat_interleave(SAMPLES_PER_FRAME), torch.zeros(window)]
        frame += count
    values = torch.stack((openness, openness.square()), 1)
    sounds = Sounds(torch.cat(audio), values, torch.tensor(rows), ["tone", "other"])
    trainer = trainer_of(small, sounds, rank, batch=64)
    trainer.encoder, trainer.reader = Pass(), Knowing(trainer, late)  # type: ignore[assignment]
    found = trainer.correlations(trainer.sounds)
    loss = float(trainer.train_step(0.5)["loss"])
    assert found.keys() == {f"{value}{of}" for value in ("openness", "width") for of in ("", " tone", " other")}
    if late:
        assert max(found.values()) < 0.5
        assert loss > 0.5
    else:
        assert min(found.values()) > 0.999
        assert loss < 1e-8


def test_training_learns_and_changes_nothing_but_corrections(
    spoken: Path, mouths: Mouths, small: Path, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WIDTH": 32, "HEADS": 2, "DEPTH": 1, "DROPOUT": 0.0}.items():
        monkeypatch.setattr(speech_tuning, name, value)
    torch.manual_seed(0)
    sounds = gather_sounds(load_tracks(spoken, "train"), 1, mouths, window_samples(TINY.speech)[0], rank.device)
    trainer = trainer_of(small, sounds, rank)
    before = {n: p.detach().clone() for n, p in trainer.encoder.named_parameters()}
    losses = [float(trainer.train_step(0.3)["loss"]) for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert min(trainer.correlations(sounds).values()) > 0.5
    changed = {n for n, p in trainer.encoder.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if n.endswith((".up", ".down"))}


def test_the_command_writes_corrections_that_load(
    spoken: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.Budget, "fraction", lambda self, step: step / self.seconds)  # updates for seconds
    options = ["--speech", str(spoken), "--assets", str(ASSETS), "--out", str(tmp_path / "run"), "--preset", "tiny"]
    options += ["--seconds", "2", "--batch", "2", "--rank", "3", "--log_every", "1", "--speech_encoder", str(small)]
    speech_tuning.main(options)
    file = tmp_path / "run" / low_rank.FILE
    assert {min(t.shape) for t in load_file(file).values()} == {3}
    window = torch.sin(torch.arange(48_000) * 0.2)[None]
    tuned, plain = load_encoder(small, tuning=file), load_encoder(small)
    assert not torch.equal(tuned(window), plain(window))
    rows = [json.loads(line) for line in (tmp_path / "run" / "tuning.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert all({"openness", "width"} <= row.keys() for row in rows)

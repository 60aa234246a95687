"""The command trains on the base's weights and on clips, and ends with one line when it cannot."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveavatar.checkpoints.load import save_model
from liveavatar.checkpoints.weight_files import read_tensors
from liveavatar.model.dit import CausalDiT
from liveavatar.training import runtime
from liveavatar.training.optim import local
from liveavatar.training.sharded import command, options
from liveavatar.training.sharded.adapters import base_of
from tests.training.sharded.conftest import OPTIONS, Build, tiny_args
from tests.training.sharded.test_windows import clip, save


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a small transformer of the 14B's kind."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    cfg = options.model_config(tiny_args(folder))
    save_model(folder, cfg, {"dit": CausalDiT(cfg.dit).state_dict()}, torch.bfloat16)
    return folder


def of_base(base: Path, tmp_path: Path, *more: str) -> list[str]:
    """Options of a run on the base and a folder of one clip."""
    words = [w for w in OPTIONS if w not in ("--random", "--tiny", "--layers", "3")]
    data = tmp_path / "clips"
    data.mkdir(exist_ok=True)
    save(data / "a.safetensors", clip(options.model_config(tiny_args(tmp_path))))
    return [*words, "--model", str(base), "--data", str(data), "--out", str(tmp_path / "run"), *more]


def test_a_run_on_weights_and_clips(base: Path, lone_rank: runtime.TrainRank, tmp_path: Path) -> None:
    args = options.parser().parse_args(of_base(base, tmp_path, "--save_every", "2", "--log_every", "1"))
    command.train(args, lone_rank)
    rows = [json.loads(line) for line in (args.out / "distill.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert ["dmd" in row for row in rows] == [False, False, True, False]
    saved = sorted(path.name for path in (args.out / "checkpoints").iterdir())
    assert saved == ["00000002", "00000004"]
    report = json.loads((args.out / "distill_sharded.json").read_text())
    assert (report["layers"], report["updates"], report["total_updates"]) == (3, 4, 4)
    adapter = dict(read_tensors([args.out / "adapter" / "liveavatar.safetensors"]))

    more = ("--init_lora", str(args.out / "adapter" / "liveavatar.safetensors"))
    again = options.parser().parse_args(of_base(base, tmp_path, *more))
    cfg = options.model_config(again)
    state = command.build(again, cfg, command.window_source(again, cfg, lone_rank), lone_rank)
    read = {name: local(p) for name, p in base_of(state.student.net.dit).items()}
    for name, tensor in read_tensors([base / "dit.safetensors"]):
        assert torch.equal(read[name], tensor.float()), name
    for name, p in state.student.adapters.named_parameters():
        torch.testing.assert_close(local(p), adapter[name].float())


def test_a_run_stops_when_its_hours_are_over(lone_rank: runtime.TrainRank, tmp_path: Path) -> None:
    command.train(tiny_args(tmp_path, "--hours", "1e-9"), lone_rank)
    command.train(tiny_args(tmp_path, "--hours", "1e-9", "--resume"), lone_rank)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000001", "00000002"]


def test_the_same_random_weights_each_time(build: Build) -> None:
    one, two = (base_of(build().student.net.dit) for _ in range(2))
    assert all(torch.equal(local(one[name]), local(p)) for name, p in two.items())
    other = base_of(build("--seed", "1").student.net.dit)
    assert not torch.equal(local(one["head.head.weight"]), local(other["head.head.weight"]))


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        pytest.param(["--random"], 2, "give --out DIR", id="no folder"),
        pytest.param(["--estimate", "none"], 2, "name GPUs", id="no GPUs"),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == code
    assert reason in caplog.messages[-1]


def test_an_estimate_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--estimate", "8x80GB"])
    assert "a rank of 8 fits 80 GB" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        command.main(["--estimate", "1x24GB"])
    assert ended.value.code == 3, "as `liveavatar plan` ends"
    assert "does not fit 24 GB" in capsys.readouterr().out


def test_a_base_of_another_kind_is_refused(lone_rank: runtime.TrainRank, base: Path, tmp_path: Path) -> None:
    weights = dict(read_tensors([base / "dit.safetensors"]))
    weights.pop("head.head.bias")
    other = tmp_path / "other"
    other.mkdir()
    save_file({name: t.clone() for name, t in weights.items()}, other / "dit.safetensors")
    (other / "config.json").write_text((base / "config.json").read_text())
    args = options.parser().parse_args(of_base(other, tmp_path))
    with pytest.raises(command.CheckpointError, match=r"missing: head\.head\.bias"):
        command.train(args, lone_rank)


def test_equal_bits_are_asked_for_and_only_inside() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with command.repeatable():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before

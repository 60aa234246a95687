"""Checkpoints of a sharded distillation: each rank writes its shards; a run that continues has the same bits.

`OUT/checkpoints/00000200/` holds the adapters, their Adam moments and averages, written by torch's distributed
checkpoint, and one `rank_N.pt` a rank with its random generators and counters. A folder appears when it is complete.
The frozen base is not in it. With another number of ranks the shards are read all the same; only the random numbers
that follow are others.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from liveavatar.errors import InputError
from liveavatar.training import runtime
from liveavatar.training.matching import DistillTrainer
from liveavatar.training.sharded.network import Role

log = logging.getLogger(__name__)

KEPT = 2  # newest checkpoints of a run
UNFINISHED = ".part"


@dataclass(slots=True)
class RunState:
    """All that a sharded distillation changes."""

    trainer: DistillTrainer
    student: Role
    fake: Role
    generators: dict[str, torch.Generator]
    settings: dict[str, Any]  # of the run; one that continues must have the same
    seconds: float = 0.0  # of training so far

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.trainer.calls

    def tensors(self) -> dict[str, Tensor]:
        """Return the sharded tensors by name, in the memory in which they are used."""
        tensors: dict[str, Tensor] = {}
        for role in (self.student, self.fake):
            assert role.adapters is not None
            chosen = role.adapters.chosen
            for name, parameter in role.adapters.named_parameters():
                tensors[f"{chosen}.weights.{name}"] = parameter.detach()
                for moment, value in moments(role, parameter).items():
                    tensors[f"{chosen}.{moment}.{name}"] = value
            if role.average is not None:
                tensors |= {f"{chosen}.average.{name}": value for name, value in role.average.weights.items()}
        return tensors


def moments(role: Role, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return Adam's moments of a parameter; zeros are made for one that was never updated."""
    assert role.optim is not None
    adam = role.optim.parts[0]
    state = adam.state[parameter]
    if not state:
        device = parameter.device if adam.defaults["fused"] else torch.device("cpu")
        state["step"] = torch.zeros((), device=device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return {moment: state[moment].detach() for moment in ("exp_avg", "exp_avg_sq")}


def save(folder: Path, state: RunState, rank: runtime.TrainRank) -> Path:
    """Write a checkpoint into `folder` and delete all but the newest; return its path. Every rank must call it."""
    path = folder / f"{state.updates:08d}"
    unfinished = path.with_name(path.name + UNFINISHED)
    if rank.first:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    rank.barrier()
    dcp.save(state.tensors(), checkpoint_id=unfinished)
    own = {
        "settings": state.settings,
        "world": rank.world,
        "seconds": state.seconds,
        "calls": state.trainer.calls,
        "step": state.trainer.step,
        "student_updates": state.student.updates,
        "fake_updates": state.fake.updates,
        "generators": {name: generator.get_state() for name, generator in state.generators.items()},
    }
    runtime.save_checkpoint(unfinished / f"rank_{rank.rank}.pt", own)
    rank.barrier()
    if rank.first:
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
        for old in saved(folder)[:-KEPT]:
            shutil.rmtree(old)
    rank.barrier()
    return path


def saved(folder: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("*") if path.name.isdigit())


def load(path: Path, state: RunState, rank: runtime.TrainRank) -> None:
    """Continue from a checkpoint. Every rank must call it.

    Raises:
        InputError: it was made with other settings.
    """
    own = path / f"rank_{rank.rank}.pt"
    same_world = own.is_file()
    facts = runtime.load_checkpoint(own if same_world else path / "rank_0.pt", torch.device("cpu"))
    other = {k for k, v in state.settings.items() if facts["settings"].get(k) != v}
    if other:
        listed = ", ".join(f"{k} {facts['settings'].get(k)} (now {state.settings[k]})" for k in sorted(other))
        raise InputError(f"{path} was made with {listed}; continue with the same options, or into another --out")
    dcp.load(state.tensors(), checkpoint_id=path)
    for role, updates in ((state.student, facts["student_updates"]), (state.fake, facts["fake_updates"])):
        role.updates = updates
        assert role.optim is not None
        for values in role.optim.parts[0].state.values():
            values["step"].fill_(updates)
    state.trainer.calls, state.trainer.step, state.seconds = facts["calls"], facts["step"], facts["seconds"]
    if same_world and facts["world"] == rank.world:
        for name, generator in state.generators.items():
            generator.set_state(facts["generators"][name])
    else:
        state.generators["host"].set_state(facts["generators"]["host"])  # all ranks draw the same from it
        log.warning("%s was made by %d ranks: it continues, with other random numbers", path, facts["world"])

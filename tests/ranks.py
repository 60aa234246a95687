"""Groups of processes for tests: every rank but the last serves in a process of its own; the test is the last."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liveavatar.distributed.placement import RankSpec
from liveavatar.load import Rank

HERE = "127.0.0.1"


@contextmanager
def group(
    model_dir: Path, world: int, own_decoder: bool, jobs: int = 1, limit_s: float = 30.0
) -> Iterator[tuple[Rank, list[Any]]]:
    """The last rank, joined, and the processes of the others; each serves so many jobs."""
    context = multiprocessing.get_context("forkserver")  # imports once for all ranks
    context.set_forkserver_preload(["liveavatar.load"])
    last = Rank(model_dir, RankSpec(rank=world - 1, world=world, own_decoder=own_decoder), "cpu", "float32", limit_s)
    address = last.group.host(HERE)
    processes = []
    for rank in range(world - 1):
        seat = RankSpec(rank=rank, world=world, own_decoder=own_decoder)
        process = context.Process(target=_serve, args=(model_dir, seat, address, jobs, limit_s), daemon=True)
        process.start()
        processes.append(process)
    try:
        last.group.join(address)
        yield last, processes
    finally:
        last.group.leave()
        for process in processes:
            process.join(5)  # one that waits for a rank that was lost need not find out
            process.kill()


def _serve(model_dir: Path, seat: RankSpec, address: tuple[str, int], jobs: int, limit_s: float) -> None:
    import torch

    torch.set_num_threads(1)
    member = Rank(model_dir, seat, "cpu", "float32", limit_s)
    member.group.join(address)
    for _ in range(jobs):
        member.serve()
    member.group.leave()

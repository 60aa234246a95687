"""A group of two: rank 0 works in a process of its own, the test is rank 1."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from liveavatar.distributed.group import Address, Group

CPU = torch.device("cpu")
HERE = "127.0.0.1"


def process(work: Callable[..., None], *args: Any) -> Any:
    """Start a process that calls a function of a module."""
    context = multiprocessing.get_context("forkserver")  # imports once for all
    context.set_forkserver_preload(["liveavatar.load"])
    started = context.Process(target=work, args=args, daemon=True)
    started.start()
    return started


@contextmanager
def pair(
    work: Callable[[Group], None], limit_s: float = 20.0, through_host: bool = False, lost: bool = False
) -> Iterator[Group]:
    """Join as rank 1.

    Args:
        work: of rank 0, a function of a module; an error of it is one of the test.
        limit_s: for anything to arrive, in seconds.
        through_host: latents take the way through host memory.
        lost: rank 0 does not end well and need not end.
    """
    ours = Group(1, 2, CPU, limit_s, through_host)
    address = ours.host(HERE)
    peer = process(_join, work, address, limit_s, through_host)
    try:
        ours.join(address)
        yield ours
        if not lost:
            peer.join(limit_s)
            assert peer.exitcode == 0
    finally:
        ours.leave()
        peer.kill()
        peer.join()


def _join(work: Callable[[Group], None], address: Address, limit_s: float, through_host: bool) -> None:
    torch.set_num_threads(1)
    group = Group(0, 2, CPU, limit_s, through_host)
    group.join(address)
    work(group)
    group.leave()

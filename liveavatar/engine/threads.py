"""Division of a CPU's threads between denoising and decoding a stream's blocks.

The number can decide the order of sums, so it belongs to the block: it is the same whether the block is decoded beside
the next one or long after it, by whichever process, in a run that was cut and goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads for the two parts of a block.

    Two small teams, one that decodes a block and one that denoises the next, wait less for one another than one large
    team does. The first block has all threads for either part, so that it comes as early as it can.
    """

    total: int
    shared: bool  # between the two parts: on a CPU

    @property
    def overlap(self) -> bool:
        """Return whether the parts have threads of their own."""
        return self.shared and self.total > 1

    def denoise(self, index: int) -> int:
        """Return the number of threads for the steps of a block."""
        return self.total - self.total // 2 if self.overlap and index else self.total

    def decode(self, index: int) -> int:
        """Return the number of threads for the frames of a block."""
        return self.total // 2 if self.overlap and index else self.total


def begin_with(threads: int) -> None:
    """Call first in a thread of the interpreter that is to compute.

    Otherwise it takes, at its first question, the number that any other thread had set last, and hands that on.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch use so many threads for what this thread of the interpreter computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

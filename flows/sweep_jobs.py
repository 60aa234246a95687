"""The renders of a sweep: one job with every number of steps at every size, each in a folder of its own."""

import re
from collections.abc import Iterable
from pathlib import Path

from flows.parameters import RenderParameters
from flows.preflight import check_options, output_folder


def sweep_jobs(
    parameters: RenderParameters, steps: Iterable[int], sizes: Iterable[str | None], out: Path | None = None
) -> list[RenderParameters]:
    """Make the parameters of the renders, in the order of the sizes; what is named twice counts once.

    Args:
        parameters: the job.
        steps: values of `sample_steps`.
        sizes: values of `size`; None is the job's own.
        out: folder that those of the renders lie in; the job's when None.
    """
    out, counts = out or output_folder(parameters), list(dict.fromkeys(steps))
    return [
        parameters.model_copy(update={"sample_steps": count, "size": size, "out": str(out / _folder(count, size))})
        for size in dict.fromkeys(sizes)
        for count in counts
    ]


def _folder(steps: int, size: str | None) -> str:
    return f"steps{steps}" + (f"-{'x'.join(re.findall('[0-9]+', size))}" if size else "")


def check_jobs(jobs: list[RenderParameters]) -> None:
    """Refuse a sweep before its first render.

    The folder of a sweep may hold what the same one made before: only those of its renders are looked at.

    Raises:
        InputError: an option of a render cannot be used.
        CapacityError: this machine cannot do it.
    """
    for job in jobs:
        check_options(job)

"""Networks without memory: names, shapes and costs before there are weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_memory() -> Iterator[None]:
    """Make what is built inside on the meta device, without initial values."""
    with _NoInitialValues(), torch.device("meta"):
        yield


class _NoInitialValues(TorchFunctionMode):
    """Skip normal initial values: on the meta device they import PyTorch's compiler, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if getattr(func, "__name__", "").endswith("normal_"):
            return args[0] if args else options["tensor"]  # as functions of `nn.init` are called
        return func(*args, **options)

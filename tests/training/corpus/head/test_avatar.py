"""Persons of a seed: the same every time, alike in words and mesh, and moved by expression, head and gaze."""

import math

import numpy as np
import pytest
import torch

from liveavatar.training.corpus.head.avatar import Avatar, brow_texture, collar_height
from liveavatar.training.corpus.head.geometry import BROW_STYLES, HeadAssets, Material


@pytest.fixture(scope="module")
def persons(assets: HeadAssets) -> list[Avatar]:
    return [Avatar(assets, seed) for seed in range(24)]


def posed(avatar: Avatar, expression: str = "", head: float = 0.0, gaze: float = 0.0) -> torch.Tensor:
    """Vertices with one shape at full weight, a yaw of the head and one of the eyes."""
    weights = torch.zeros(1, len(avatar.assets.expression_names))
    if expression:
        weights[0, avatar.assets.index(expression)] = 1.0
    return avatar.pose(weights, torch.tensor([[head, 0.0, 0.0]]), torch.tensor([[gaze, 0.0]]))[0][0]


def test_a_seed_is_a_person(assets: HeadAssets, persons: list[Avatar]) -> None:
    again = Avatar(assets, 3)
    assert again.traits == persons[3].traits
    assert torch.equal(again.rest, persons[3].rest)
    assert all(torch.equal(value, persons[3].parameters[name]) for name, value in again.parameters.items())
    assert len({p.traits for p in persons}) > 20


def test_words_and_meshes_agree(persons: list[Avatar]) -> None:
    for person in persons:
        has_mesh = bool((person.material == Material.HAIR).any())
        assert has_mesh == (person.traits.hair_style not in ("a buzz cut", "a bald head")), person.traits
        assert float(person.parameters["buzz"]) == (person.traits.hair_style == "a buzz cut")
        assert (float(person.parameters["stubble"]) > 0.35) == person.traits.stubble
        assert (float(person.parameters["pattern"][0]) == 1) == ("striped" in person.traits.clothes)
        if person.traits.skin == "dark":
            assert person.traits.hair_colour in ("black", "dark brown", "brown")
            assert person.traits.eyes in ("dark brown", "brown")
    assert not any(p.traits.stubble for p in persons if p.traits.gender == "woman")
    by_skin = {
        s: [float(p.parameters["tone"].mean()) for p in persons if p.traits.skin == s] for s in ("light", "dark")
    }
    assert min(by_skin["light"]) > max(by_skin["dark"])


def test_at_rest_nothing_moves(persons: list[Avatar]) -> None:
    torch.testing.assert_close(posed(persons[0]), persons[0].rest, atol=1e-5, rtol=0)


def test_the_head_turns_and_the_shoulders_stay(persons: list[Avatar]) -> None:
    person = persons[0]
    turned, rest = posed(person, head=math.pi / 2), person.rest
    crown = rest[:, 1].argmax()
    nose = rest[: person.num_head, 2].argmax()
    torch.testing.assert_close(turned[nose, 0], rest[nose, 2] + 1, atol=1e-3, rtol=0)  # about an axis at z = -1
    assert float(person.head_share[crown]) == 1
    shoulders = person.head_share[:, 0] == 0
    assert shoulders.any()
    assert torch.equal(turned[shoulders], rest[shoulders])


def test_gaze_moves_the_eyes_alone_to_the_subjects_left(persons: list[Avatar], assets: HeadAssets) -> None:
    person = persons[0]
    moved = posed(person, gaze=0.4) - posed(person)
    eyes = torch.cat(assets.eyes)
    still = torch.ones(len(moved), dtype=torch.bool)
    still[eyes] = False
    assert float(moved[still].abs().max()) == 0
    for eye in assets.eyes:
        front = eye[person.rest[eye, 2].argmax()]
        assert moved[front, 0] > 0.3


def test_closed_lids_shrink_the_eyeball_behind_them(persons: list[Avatar], assets: HeadAssets) -> None:
    person = persons[0]
    open_, shut = posed(person), posed(person, "eyeBlink_L")
    left, right = ([(p[eye] - centre).norm(dim=1) for p in (open_, shut)] for eye, centre in
                   zip(assets.eyes, person.eye_centres, strict=True))  # fmt: skip
    torch.testing.assert_close(left[1], 0.86 * left[0], atol=0.05, rtol=0)
    torch.testing.assert_close(right[1], right[0])


@pytest.mark.parametrize(
    ("point", "height"),
    [
        pytest.param((9.0, 0.0, 0.0), -11.0, id="at the side"),
        pytest.param((9.0, 0.0, 2.0), -11.6, id="lower in front"),
        pytest.param((0.0, 0.0, 2.0), -15.2, id="a V in the middle"),
        pytest.param((0.0, 0.0, -2.0), -10.4, id="and none behind"),
    ],
)
def test_neckline(point: tuple[float, float, float], height: float) -> None:
    collar = torch.tensor([[-11.0, 0.3, 1.0]])
    assert float(collar_height(collar, torch.tensor([point]))) == pytest.approx(height)


def test_no_skin_is_drawn_far_below_the_neckline(persons: list[Avatar]) -> None:
    for person in persons[:4]:
        skin = person.faces[person.material == Material.SKIN]
        corners = person.attributes[skin.reshape(-1), :3]
        below = (corners[:, 1] - person.collar_height(corners)).reshape(-1, 3)
        assert float(below.amax(1).min()) >= -1
        assert float(below.amin(1).min()) < -1, "a triangle that reaches above it is drawn whole"


def test_a_denser_brow_covers_more(assets: HeadAssets) -> None:
    thin, dense = (brow_texture(assets, BROW_STYLES[0], np.random.default_rng(0), d) for d in (0.5, 1.5))
    assert thin.shape == (160, 256)
    assert 0 <= thin.min() < dense.max() <= 1
    assert dense.mean() > 1.5 * thin.mean()

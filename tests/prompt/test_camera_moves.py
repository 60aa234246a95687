"""What a prompt says that the camera does."""

import pytest

from liveavatar.prompt.camera_moves import camera_moves
from liveavatar.prompt.check import check_prompt


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("the camera slowly circles around her", "camera slowly circles"),
        ("while the camera flies over the crowd", "camera flies"),
        ("spinning camera", "spinning camera"),
        ("constant camera shake", "camera shake"),
        ("镜头绕着他转", "镜头绕"),
        ("摄像机快速移动", "摄像机快速移动"),
        ("the camera never moves", ""),
        ("no camera movement", ""),
        ("with no visible camera shake", ""),
        ("she turns to the camera and moves closer", ""),
        ("没有镜头移动", ""),
        ("镜头始终静止", ""),
        ("他对着镜头，挥手", ""),
    ],
)
def test_moves(text: str, moves: str) -> None:
    assert camera_moves(text).moves == moves


@pytest.mark.parametrize("text", ["the camera stays still", "the camera never moves", "镜头始终静止"])
def test_stays(text: str) -> None:
    assert camera_moves(text).stays


@pytest.mark.parametrize(
    "text",
    [
        "A woman in a green coat nods, static tripod shot, the camera circles around her, soft light, photorealistic",
        "一位穿绿色大衣的女士点头，固定机位，镜头围绕她快速旋转，柔光，写实",
        "一位穿綠色大衣的女士點頭，鏡頭固定，鏡頭緩慢推進，柔光，寫實",
    ],
)
def test_a_still_camera_that_moves_is_a_contradiction(text: str) -> None:
    report = check_prompt(text)
    assert "contradict" in report.problems[0]
    assert report.grade == "fair"


def test_a_still_camera_without_movement_is_none() -> None:
    assert not check_prompt("A woman nods, static shot, the camera never moves, no camera shake").problems


def test_what_the_camera_does_is_no_action() -> None:
    assert check_prompt("A woman in red, the camera follows her").facets["action"] == []
    assert check_prompt("A woman in red walks, the camera follows her").facets["action"] == ["walk"]

"""Names of runs: one that says what is rendered, and those that Prefect makes up."""

import pytest
from prefect.utilities.names import generate_slug

from flows.run_name import made_up, render_name


def test_every_name_that_the_server_makes_up_is_known() -> None:
    assert all(made_up(generate_slug(2)) for _ in range(2000))


@pytest.mark.parametrize(
    ("name", "is_made_up"),
    [
        pytest.param("sigma3-konishi", True, id="a letter with a number"),
        pytest.param("mu-minnobia-x", True, id="a letter that is no word"),
        pytest.param("beta2-konishi", True, id="a letter that is a word, with a number"),
        pytest.param("beta-launch", False, id="a letter that is a word"),
        pytest.param("morning-news", False, id="two words"),
        pytest.param("anna-peacock", False, id="an animal of Prefect's behind another word"),
        pytest.param("gifted", False, id="half a name"),
        pytest.param("", False, id="none"),
    ],
)
def test_names_of_users_are_told_from_those_of_prefect(name: str, is_made_up: bool) -> None:
    assert made_up(name) == is_made_up


@pytest.mark.parametrize("sound", ["in/anna.wav", "studio:anna.wav"])
def test_a_render_is_named_by_its_inputs(sound: str) -> None:
    assert render_name({"parameters": {"what": {"audio": sound, "image": "face.png"}}}) == "anna-face-420"

"""Settings of a render: what of a prompt the text encoder is given."""

import pytest

from liveavatar.engine.settings import RenderSettings

TEXT = "An angry clerk, dark room"
KNOWN = "A person speaks to the camera frowning slightly, moody low-key lighting."


@pytest.mark.parametrize(
    ("words", "words_read", "read"),
    [
        pytest.param("known", 32, KNOWN, id="in the phrases that mini knows"),
        pytest.param("all", 32, TEXT, id="as it is written"),
        pytest.param("known", None, TEXT, id="a large text encoder"),
    ],
)
def test_what_of_a_prompt_is_encoded(words: str, words_read: int | None, read: str) -> None:
    assert RenderSettings(prompt=TEXT, prompt_words=words).prompt_read(words_read) == read

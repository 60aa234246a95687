"""Language of a prompt: English, Chinese, neither."""

import pytest

from liveavatar.prompt.languages import language_of


@pytest.mark.parametrize(
    ("text", "words", "known", "language"),
    [
        ("a woman smiles", 3, 2, "en"),
        ("一位女士微笑", 0, 2, "zh"),
        ("eine junge frau lächelt und nickt", 6, 0, "other"),
        ("赤い髪の女性が微笑む", 0, 1, "other"),
        ("мужчина говорит", 0, 0, "other"),
        ("un hombre mayor habla despacio, luz suave", 7, 1, "other"),
        ("ein alter mann spricht leise", 5, 0, "other"),
        ("kobieta w okularach opowiada o swoim dniu", 7, 1, "other"),
        ("seorang wanita berbicara di dapur", 5, 0, "other"),
        ("pablo picasso", 2, 0, "en"),
        ("xyzzy plugh quux", 3, 0, "en"),
        ("i don't want a hat", 5, 1, "en"),
        ("a man in a café says “déjà vu”", 7, 2, "en"),
    ],
)
def test_language(text: str, words: int, known: int, language: str) -> None:
    assert language_of(text, words, known) == language

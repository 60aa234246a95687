"""Lists of entries are split at bars."""

from liveavatar.prompt.lexicon import entries


def test_a_list_is_split_at_bars_and_white_space_is_tidied() -> None:
    assert entries(" a |bow  tie|\nlong\n coat||a") == {"a", "bow tie", "long coat"}
    assert entries("") == frozenset()

"""Form of the lexicons: the facets of a prompt, and lists of entries written with bars."""

FACETS = ("person", "action", "lighting", "style", "camera", "setting", "mood")


def entries(text: str) -> frozenset[str]:
    """Split a list written with bars between its entries."""
    return frozenset(" ".join(entry.split()) for entry in text.replace("\n", " ").split("|") if entry.strip())

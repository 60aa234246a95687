"""Captions of clips in varied words: person, action, mood, light, place, clothes, style.

Parts are left out at random, so that training sees short and long prompts. Differences between the clip and its
reference photo (`must_name`) are never left out: only the caption can tell the model about them.
"""

import re

import numpy as np

from liveavatar.training.corpus.head.avatar import Traits

_PERSON = (
    "{age}{gender} with {hair}",
    "{gender} with {hair} and {eyes} eyes",
    "{gender}",
    "{skin}-skinned {gender} with {hair}",
)
_NOUNS = {
    "woman": ("woman", "lady", "female presenter", "female avatar"),
    "man": ("man", "gentleman", "male presenter", "male avatar"),
}
_ACTIONS = {
    "calm": (
        "speaks calmly", "talks with a still head", "is speaking quietly with little movement",
        "talks in a calm manner",
        "speaks slowly with minimal head movement",
    ),
    "natural": (
        "speaks to the camera", "is talking", "talks to the viewer with natural head movement", "is speaking naturally",
        "looks into the camera and talks", "speaks with gentle nods",
    ),
    "lively": (
        "speaks energetically with lively head movement", "talks with enthusiasm", "is speaking in an animated way",
        "talks vividly and moves the head a lot", "speaks expressively with dynamic gestures",
    ),
}  # fmt: skip
_MOODS = {
    "neutral": ("with a neutral expression", "with a relaxed face", ""),
    "smiling": ("smiling", "with a friendly smile", "in a cheerful mood", "looking happy", "with a warm smile"),
    "serious": ("with a serious expression", "looking serious", "frowning slightly", "in a stern mood"),
    "surprised": ("looking surprised", "with raised eyebrows", "with wide eyes, surprised", "in an amazed mood"),
}
_STYLES = (
    "realistic digital human", "3D rendered avatar", "high quality render", "close-up portrait",
    "head and shoulders shot",
    "sharp focus", "static camera", "photorealistic style", "medium close-up", "video call framing",
)  # fmt: skip
_ARTICLE = re.compile(r"\ba (?=[aeiou])")
_KEEP = {"person": 0.95, "clothes": 0.6, "action": 0.92, "mood": 0.85, "light": 0.75, "place": 0.7, "style": 0.45}


def _person(traits: Traits, rng: np.random.Generator) -> str:
    colour, style = traits.hair_colour, traits.hair_style
    if style == "a bald head":
        hair = style
    elif style.endswith(" hair"):
        hair = style.replace(" hair", f" {colour} hair")
    else:
        hair = f"a {colour} {style.split(' ', 1)[1]}"
    text = str(rng.choice(_PERSON)).format(
        age=str(rng.choice(["", "young ", "adult "])), gender=str(rng.choice(_NOUNS[traits.gender])), hair=hair,
        eyes=traits.eyes, skin=traits.skin,
    )  # fmt: skip
    return f"a {text}"


def caption(
    traits: Traits, mood: str, energy: str, light: str, place: str, must_name: frozenset[str], rng: np.random.Generator
) -> str:
    """Describe a clip.

    Args:
        traits: the person.
        mood: of `motion.MOODS`.
        energy: of `motion.ENERGIES`.
        light: words of the clip's lighting.
        place: words of the clip's backdrop.
        must_name: which of "light" and "place" may not be left out.
        rng: choice of words, order and omissions.
    """
    keep = {part: bool(rng.random() < share) or part in must_name for part, share in _KEEP.items()}
    subject = _person(traits, rng) if keep["person"] else "a person"
    if keep["clothes"]:
        subject += f" wearing {traits.clothes}" if rng.random() < 0.7 else f" in {traits.clothes}"
    action = str(rng.choice(_ACTIONS[energy])) if keep["action"] else "talks"
    mood_words = str(rng.choice(_MOODS[mood])) if keep["mood"] else ""
    head = f"{subject} {action}" + (f" {mood_words}" if mood_words else "")
    tail = []
    if keep["light"]:
        tail.append(str(rng.choice(["{}", "in {}", "lit by {}", "{}"])).format(light))
    if keep["place"]:
        tail.append(str(rng.choice(["in front of {}", "{} behind", "{}", "before {}"])).format(place))
    if keep["style"]:
        tail += [str(s) for s in rng.choice(_STYLES, int(rng.integers(1, 3)), replace=False)]
    order = rng.permutation(len(tail))
    parts = [head, *(tail[i] for i in order)]
    text = _ARTICLE.sub("an ", ", ".join(parts))
    return text[0].upper() + text[1:] + ("." if rng.random() < 0.6 else "")

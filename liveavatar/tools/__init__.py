"""Command lines under fixed names: `python -m liveavatar.tools.audio_preprocess`, and `noisereduce`.

`audio_preprocess` writes driving features of a sound file, `noisereduce` lowers the noise of one. Owns their command
lines. Does not know how anything is computed: the rooms do.
"""

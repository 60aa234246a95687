"""Modules whose names are part of the contract: `python -m liveavatar.tools.audio_preprocess`.

Owns their command lines. Does not know how anything is computed: the rooms do.
"""

"""Modules whose names are part of the contract: `python -m liveavatar.tools.audio_preprocess`.

Owns their command lines. They compute nothing: the rooms do.
"""

"""Sound: reading, cleaning, transcription, and the driving features of a model.

Owns samples, from a file or a pipe to features at 25 per second, and that cleaning never harms. Does not know pictures,
containers of finished videos (`media`), or what the transformer does with features.
"""

"""Speech encoders: driving features at 25 fps from Whisper or wav2vec2, of files and of growing sound.

Owns how sound becomes features. Does not know the transformer that reads them.
"""

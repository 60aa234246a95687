"""Head, eyelid and gaze tracks that condition a model: seeded, from a csv, or read off a video.

Owns the track format and its fit to a stream. Does not know the networks that read it.
"""

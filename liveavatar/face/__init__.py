"""Reading a face off a picture: detection, landmarks, embedding, head pose, eyelids and gaze.

Owns the small face models and where they lie. Does not know limits or verdicts (`quality`), nor what a model is
conditioned on (`pose`).
"""

"""Face reading: detection, landmarks, embedding, head pose, eyelids and gaze.

Owns the small face models and where they lie. Does not know media files, limits or verdicts (`quality`), nor
the conditioning of a model (`pose`).
"""

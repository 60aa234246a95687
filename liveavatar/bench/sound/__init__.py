"""Bench of the sound stage: speech in planted noise, before and after the pipeline's cleaning. It knows no video."""

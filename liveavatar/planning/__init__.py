"""Memory and speed model of a job on given GPUs, and the refusal before anything loads.

Owns the arithmetic of bytes and frames per second. Runs no job; only `speed` measures a small model on a CPU.
"""

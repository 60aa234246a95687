"""Distillation of the 14B, sharded over GPUs: one frozen base, low-rank adapters of the student and of the fake score.

Owns how that network is built, loaded shard by shard, saved and measured, and its command line. Does not know the
losses (`liveavatar.training.matching`).
"""

"""Alias of `liveavatar.bench.gpu`, for scripts that call `python -m liveavatar.bench_gpu`.

Owns the name and no code of its own.
"""

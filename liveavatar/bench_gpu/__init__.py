"""Alias of `liveavatar.bench.gpu`: scripts call `python -m liveavatar.bench_gpu`."""

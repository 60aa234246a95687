"""Measurements of the large model on this GPU: correctness of every fast path, speed, memory, what bounds it.

`python -m liveavatar.bench.gpu --out DIR` builds the true shapes with random weights straight on the GPU (speed does
not depend on their values), measures, prints a table and writes a dated report.
"""

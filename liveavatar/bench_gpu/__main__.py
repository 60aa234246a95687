"""`python -m liveavatar.bench_gpu`: alias of `python -m liveavatar.bench.gpu`."""

import runpy

runpy.run_module("liveavatar.bench.gpu", run_name="__main__", alter_sys=True)

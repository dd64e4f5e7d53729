"""Run every benchmark of this folder in turn: ``python -m bench [--runs N] [--json]``."""

import runpy
from pathlib import Path

NOT_BENCHMARKS = {"__init__", "__main__", "harness"}

for name in sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - NOT_BENCHMARKS):
    print(f"## {name}\n", flush=True)
    runpy.run_module(f"bench.{name}", run_name="__main__")

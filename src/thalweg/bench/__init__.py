"""Bench: time the steps of thalweg's optimizers and of others on this machine, in one interleaved run."""

from thalweg.bench.bench import Benchmark, Measurement, bench
from thalweg.bench.implementations import IMPLEMENTATIONS, RULES
from thalweg.bench.sets import SETS

__all__ = ["IMPLEMENTATIONS", "RULES", "SETS", "Benchmark", "Measurement", "bench"]

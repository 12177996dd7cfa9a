"""Bench: what a step costs on this machine, ours beside others', measured in one interleaved run."""

from thalweg.bench.bench import Benchmark, Measured, bench
from thalweg.bench.entrants import ENTRANTS, RULES
from thalweg.bench.sets import SETS

__all__ = ["ENTRANTS", "RULES", "SETS", "Benchmark", "Measured", "bench"]

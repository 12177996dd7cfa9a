"""Bench: time the steps of thalweg's optimizers and of others on this machine, in one interleaved run."""

from thalweg.bench.bench import bench
from thalweg.bench.device_bench import DeviceBenchmark, DeviceMeasurement
from thalweg.bench.implementations import IMPLEMENTATIONS, RULES
from thalweg.bench.records import Benchmark, Measurement
from thalweg.bench.sets import SETS

__all__ = [
    "IMPLEMENTATIONS",
    "RULES",
    "SETS",
    "Benchmark",
    "DeviceBenchmark",
    "DeviceMeasurement",
    "Measurement",
    "bench",
]

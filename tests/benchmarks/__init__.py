"""Benchmarks: run ``python -m tests.benchmarks.storescp``, and ``python -m tests.benchmarks.growth``."""

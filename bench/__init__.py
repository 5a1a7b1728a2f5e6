"""Benchmarks: what was measured, and the programs that measure it."""

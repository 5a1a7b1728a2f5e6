"""Benchmarks: the programs that measure, and what they are measured against."""

"""Packed, changelogged state: bytes and partitions, between the pure core and Faust's tables."""

"""Bytes that nobody meant, given to whatever reads bytes: `make fuzz`."""

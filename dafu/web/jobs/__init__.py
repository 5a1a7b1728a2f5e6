"""Whole files scored in the background: jobs of a worker, each in a process of its own."""

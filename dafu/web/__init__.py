"""HTTP views of a worker: what it remembers, how it does, whether it can take traffic."""

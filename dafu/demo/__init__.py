"""The demonstration: a broker, a worker and generated traffic on one machine, for `dafu demo`.

`traffic` makes the payments, `worker` runs the real worker, `tally` keeps count, `run` brings them
together and `view` shows what happens. The worker knows nothing of being watched.
"""

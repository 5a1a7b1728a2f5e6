"""Models: tree ensembles served by one kernel, calibration, explanations, packages, training.

Pure: no clock, no asyncio, no Faust. Only `package` and `storage` touch files, and only `training`
and `trainers` need the `train` extra; serving imports NumPy, numba and msgspec.
"""

"""Models: tree ensembles served by one kernel, calibration, packages on disk, training.

Pure: no clock, no asyncio, no Faust. Only `package` touches files, and only `training` needs the
`train` extra; serving imports NumPy, numba and msgspec.
"""

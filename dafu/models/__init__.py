"""Models: tree ensembles served by one kernel, calibration, explanations, packages, training.

Pure: no clock, no asyncio, no Faust. Only `package` and `storage` touch files, and only `training`
and `trainers` need the `train` extra; serving imports NumPy, numba and msgspec.

The detectors for notebooks can be had from here as well. They live in `dafu.notebook`, which is
imported when one of them is asked for and never by a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dafu.notebook import (
        IsolationForestFraudDetector,
        MerchantRiskProcessor,
        NetworkAnalyzer,
        SequenceFraudDetector,
        UserBehaviorAnalyzer,
    )

__all__ = [
    "IsolationForestFraudDetector",
    "MerchantRiskProcessor",
    "NetworkAnalyzer",
    "SequenceFraudDetector",
    "UserBehaviorAnalyzer",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dafu import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

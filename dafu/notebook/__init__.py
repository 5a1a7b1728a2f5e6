"""Training and looking at data from a notebook: thin faces of the code that serves.

`IsolationForestFraudDetector` and `SequenceFraudDetector` lead from a table to a model package,
`UserBehaviorAnalyzer` shows who departs from their own habits, `NetworkAnalyzer` who acts together,
`MerchantRiskProcessor` how risky a merchant looks. What they compute is computed by
`dafu.history`, `dafu.models`, `dafu.evaluation`, `dafu.network` and the stages; here are names of
columns, prompts, files and the clock. Nothing else in dafu imports this package.
"""

from dafu.notebook.behavior import BehaviorReport, UserBehaviorAnalyzer
from dafu.notebook.detector import Analysis, Outcome
from dafu.notebook.errors import MissingArgumentError, NotebookError
from dafu.notebook.isolation import IsolationForestFraudDetector
from dafu.notebook.merchants import BurstEpisode, MerchantRisk, MerchantRiskProcessor
from dafu.notebook.network import NetworkAnalyzer, NetworkReport
from dafu.notebook.sequence import SequenceFraudDetector

__all__ = [
    "Analysis",
    "BehaviorReport",
    "BurstEpisode",
    "IsolationForestFraudDetector",
    "MerchantRisk",
    "MerchantRiskProcessor",
    "MissingArgumentError",
    "NetworkAnalyzer",
    "NetworkReport",
    "NotebookError",
    "Outcome",
    "SequenceFraudDetector",
    "UserBehaviorAnalyzer",
]

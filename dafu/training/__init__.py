"""Training a model package from past transactions, on the features that the stream computes.

`plan` says what to train and how, `periods` which transactions serve for what, `rows`, `ensembles`
and `sequences` train, `figures` chooses thresholds and measures, and `run` goes from a file to a
package. Without a file it trains on generated transactions with fixed parameters, which is how the
default model that ships was made. Needs the `train` extra, sequence models the `sequence` extra.
"""

from dafu.training.plan import MODELS, Plan
from dafu.training.run import check_before, load_sequence, train_default, train_file

__all__ = ["MODELS", "Plan", "check_before", "load_sequence", "train_default", "train_file"]

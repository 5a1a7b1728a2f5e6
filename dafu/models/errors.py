"""Why a model cannot be built, trained or loaded. Knows no model."""

from dafu.errors import DafuError


class ModelError(DafuError):
    """A model, or what it was given to score or train on, does not fit; the message says where."""


class ModelPackageError(ModelError):
    """A model package that must not be served: what is wrong, in which file, what to do."""


class TrainingError(ModelError):
    """Training cannot start: data, parameters or a missing library."""

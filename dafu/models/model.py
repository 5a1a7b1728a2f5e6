"""What every model kind has in common: the protocols, the manifest, and the scores.

A kind is a class that can be packaged (`Packaged`), and, if stage two is to serve it, one that
scores rows of the feature matrix (`Model`). `kinds.KINDS` lists them. Knows no kind and no files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.errors import ModelError
from dafu.models.reference import ModelReference

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Arrays = Mapping[str, NDArray[Any]]
"""Arrays of a model by name; see `is_array_name`."""

GROUPS: Final = ("amount", "behavior", "merchant", "sequence", "network")
"""The feature groups that decisions explain, in the order of the columns of `Scores.group_risk`
unless a model says otherwise."""

_NO_MEMBERS: Final[Mapping[str, F64]] = MappingProxyType({})
_ARRAY_NAME: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_P = TypeVar("_P", bound=Struct)


class Scores(NamedTuple):
    """What a model says of n rows.

    Attributes
    ----------
    raw : float64 [n]
        The kind's own score before calibration: an isolation forest's anomaly score, a classifier's
        probability. Higher is more suspicious.
    risk : float64 [n]
        Its calibration, 0..1: a rank or a probability, as the model's calibration says.
    group_risk : float64 [n, G]
        The risk had only this group of features moved the score from its average; 0 where the
        group did not raise it.
    members : mapping of name to float64 [n]
        For an ensemble, the risk that each member gives; else empty.
    """

    raw: F64
    risk: F64
    group_risk: F64
    members: Mapping[str, F64] = _NO_MEMBERS


class Contributions(NamedTuple):
    """Why a model gives n rows their scores, on a scale on which contributions add up.

    The scale is the kind's: log-odds for boosted trees and ensembles with a logistic link, the
    probability for a random forest, the negative mean path length for an isolation forest.

    Attributes
    ----------
    features : float64 [n, F]
        By feature, in the model's order; positive raises the score.
    groups : float64 [n, G]
        Their sums by group.
    expected : float
        The average; a row's contributions and this add up to its score on the scale.
    """

    features: F64
    groups: F64
    expected: float


class Provenance(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model comes from: what it was trained on, by which code, with which seed."""

    data: str = ""
    code: str = ""
    seed: int = 0


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 (hexadecimal) of a file beside the manifest."""

    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The contents of manifest.json: what all kinds say, and the `parameters` of the kind.

    `requires` maps the name of another model, whose output is among the features, to its version.
    `reference` is not there in packages whose model has none; nor is it in their hash.
    """

    format_version: int
    kind: str
    name: str
    version: str
    provenance: Provenance
    catalogue_hash: str
    groups: list[str]
    features: list[str]
    requires: dict[str, str]
    parameters: dict[str, Any]
    thresholds: dict[str, float]
    metrics: dict[str, float]
    files: dict[str, FileEntry]
    reference: ModelReference | None = None


@runtime_checkable
class Packaged(Protocol):
    """A model that can be stored in a package and read back, bit for bit.

    The attributes are those of `ModelBase`, which most kinds inherit.
    """

    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """What decisions call it."""

    @property
    def version(self) -> str:
        """Hash of the package's content; empty until the model has been packaged."""

    @property
    def catalogue_hash(self) -> str:
        """The feature catalogue it was trained with."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Feature groups, in the order of the columns of `Scores.group_risk`."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features it reads, in its own order."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds chosen in training, by name."""

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the training run, by name."""

    @property
    def provenance(self) -> Provenance:
        """What it was made from."""

    @property
    def requires(self) -> dict[str, str]:
        """Versions of the models whose outputs are among its features, by name."""

    @property
    def reference(self) -> ModelReference | None:
        """How its features and scores were distributed in training."""

    def parameters(self) -> dict[str, Any]:
        """What goes into the manifest besides the attributes above: JSON values, finite."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Numeric arrays by name (`is_array_name`), each one file of the package."""

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> Self:
        """Build the model from what a package holds, and check all that serving relies on.

        Raises
        ------
        ModelError
            If a parameter or an array is missing, unknown, or does not fit the rest.
        """


@runtime_checkable
class Model(Packaged, Protocol):
    """A model that scores rows of the full feature matrix, as stage two serves it."""

    @property
    def member_names(self) -> tuple[str, ...]:
        """The keys of `Scores.members`, in order; for an ensemble only."""

    def column_index(self, columns: Mapping[str, int]) -> I32:
        """Where its features are in a matrix with these columns; see `ModelBase`."""

    def score(self, x: NDArray[Any], column_index: I32) -> Scores:
        """Score rows [n, F_full] of the full feature matrix, NaN for missing.

        Each row's result is the same bits whatever the rest of its batch.
        """

    def explain(self, x: NDArray[Any], column_index: I32) -> Contributions:
        """Contributions of features and groups to the scores of rows [n, F_full].

        Dearer than `score`: for the rows that people will look at.
        """

    def explained_risk(self, contributions: Contributions) -> F64:
        """What `Scores.group_risk` would be by these contributions, float64 [n, G]."""


@dataclass(frozen=True, kw_only=True)
class ModelBase:
    """What every kind says of itself, checked.

    Attributes
    ----------
    name : str
        What decisions call it.
    feature_names : tuple of F names
        The features it reads, in the order of its own columns.
    groups : tuple of G names
        The columns of `Scores.group_risk`.
    catalogue_hash : str
        The feature catalogue it was trained with.
    thresholds, metrics : dict
        For people and for the configuration: thresholds chosen in training, figures of the run.
    provenance : Provenance
        What it was made from.
    requires : dict
        Name to version of the models whose outputs are among its features.
    version : str
        Hash of the package's content; empty until the model has been packaged.
    reference : ModelReference or None
        How features and scores were distributed in training; see `with_reference`.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    kind: ClassVar[str]

    name: str
    feature_names: tuple[str, ...]
    groups: tuple[str, ...] = GROUPS
    catalogue_hash: str = ""
    thresholds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    requires: dict[str, str] = field(default_factory=dict)
    version: str = ""
    reference: ModelReference | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("the model has no name")
        if not self.feature_names:
            raise ModelError(f"model '{self.name}' has no features")
        if not self.groups:
            raise ModelError(f"model '{self.name}' has no groups")
        for what, names in (("feature", self.feature_names), ("group", self.groups)):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ModelError(f"model '{self.name}': {what} {twice[0]!r} is listed twice")
        for what, figures in (("threshold", self.thresholds), ("metric", self.metrics)):
            for key, value in figures.items():
                if not math.isfinite(value):
                    raise ModelError(f"model '{self.name}': {what} {key!r} is {value}, not finite")
        if self.reference is not None:
            referenced = tuple(r.name for r in self.reference.features)
            if referenced != self.feature_names:
                raise ModelError(f"model '{self.name}': its reference is of other features")

    @property
    def member_names(self) -> tuple[str, ...]:
        """The keys of `Scores.members`, in order."""
        return ()

    def column_index(self, columns: Mapping[str, int]) -> I32:
        """Where this model's features are in a matrix with these columns.

        Parameters
        ----------
        columns
            Column by feature name, such as `dafu.features.catalogue.INDEX`.

        Raises
        ------
        ModelError
            Naming the features that the matrix lacks.
        """
        missing = [n for n in self.feature_names if n not in columns]
        if missing:
            raise ModelError(
                f"model '{self.name}' needs features that are not computed: {', '.join(missing)}; "
                "retrain it with the present feature catalogue"
            )
        return np.array([columns[n] for n in self.feature_names], dtype=np.int32)


def base_fields(manifest: Manifest) -> dict[str, Any]:
    """The attributes of `ModelBase` as keyword arguments, for `assemble`."""
    return {
        "name": manifest.name,
        "feature_names": tuple(manifest.features),
        "groups": tuple(manifest.groups),
        "catalogue_hash": manifest.catalogue_hash,
        "thresholds": dict(manifest.thresholds),
        "metrics": dict(manifest.metrics),
        "provenance": manifest.provenance,
        "requires": dict(manifest.requires),
        "version": manifest.version,
        "reference": manifest.reference,
    }


def group_index(name: str, feature_groups: tuple[str, ...], groups: tuple[str, ...]) -> I32:
    """Position in `groups` of each feature's group, int32 [F]; `name` is the model's.

    Raises
    ------
    ModelError
        Naming the group that the model does not have.
    """
    unknown = sorted(set(feature_groups) - set(groups))
    if unknown:
        raise ModelError(f"model '{name}': group {unknown[0]!r} is none of {', '.join(groups)}")
    return np.array([groups.index(g) for g in feature_groups], dtype=np.int32)


def sum_by_group(features: F64, index: I32, n_groups: int) -> F64:
    """Sums [n, G] of contributions [n, F] by the group of each feature; features in order."""
    groups = np.zeros((len(features), n_groups))
    _sum_by_group(features, index, groups)
    return groups


@kernel
def _sum_by_group(features: F64, index: I32, groups: F64) -> None:
    for i in range(features.shape[0]):
        for f in range(features.shape[1]):
            groups[i, index[f]] += features[i, f]


def read_parameters(manifest: Manifest, wanted: type[_P]) -> _P:
    """The manifest's parameters as the struct of the kind, every field checked.

    Raises
    ------
    ModelError
        Saying which field is wrong.
    """
    try:
        return msgspec.convert(manifest.parameters, type=wanted)
    except msgspec.ValidationError as exc:
        raise ModelError(f"parameters of the {manifest.kind}: {exc}") from exc


def is_array_name(name: str) -> bool:
    """Whether it makes a safe file name: lower case, digits, `_`, and `.` in between."""
    return _ARRAY_NAME.fullmatch(name) is not None


def check_arrays(kind: str, arrays: Arrays, wanted: Iterable[str]) -> None:
    """Refuse a package that lacks an array of its kind or has one too many.

    Raises
    ------
    ModelError
        Naming the arrays that differ.
    """
    wanted = set(wanted)
    if set(arrays) != wanted:
        odd = ", ".join(sorted(wanted ^ set(arrays)))
        raise ModelError(f"a model of kind {kind} has exactly its arrays, differs in {odd}")

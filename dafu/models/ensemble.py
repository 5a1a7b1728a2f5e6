"""Several models as one: their scores combined by weights, then calibrated to a risk.

With an identity link the raw score is a weighted mean of the members' risks, with a logistic link
it is sigmoid(intercept + weighted sum): stacking (Wolpert, "Stacked generalization", Neural
Networks 5, 1992) with a logistic regression over the members' scores or log-odds.

Knows its members by the protocol `Model` only; they may be of any kind that explains itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Self

import msgspec
import numpy as np
from msgspec import Struct, to_builtins
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.calibration import IDENTITY, Calibration
from dafu.models.errors import ModelError
from dafu.models.model import (
    Arrays,
    Contributions,
    FileEntry,
    Manifest,
    Model,
    ModelBase,
    Provenance,
    Scores,
    base_fields,
    group_index,
    read_parameters,
    sum_by_group,
)
from dafu.models.numeric import log_odds, sigmoid
from dafu.models.reference import ModelReference

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

Input = Literal["raw", "risk", "log_odds"]
"""What an ensemble takes of a member: its raw score, its risk, or the log-odds of its raw score."""
Link = Literal["identity", "logistic"]

MAX_MEMBERS: Final = 100


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """How a member counts.

    Attributes
    ----------
    input : "raw", "risk" or "log_odds"
    weight : float
        Not negative: a member's suspicion never lowers the risk.
    average : float
        Mean of the member's input over the rows on which the ensemble was fitted; what the member
        adds to the risk of a row is measured from there.
    """

    input: Input
    weight: float
    average: float


class MemberManifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A member's own manifest, but for its files, which are among the ensemble's."""

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
    reference: ModelReference | None = None


class EnsembleParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of an ensemble; see `EnsembleModel`."""

    feature_groups: tuple[str, ...]
    link: Link
    intercept: float
    parts: tuple[Part, ...]
    calibration: Calibration
    members: tuple[MemberManifest, ...]


@dataclass(frozen=True, kw_only=True)
class EnsembleModel(ModelBase):
    """Models of any kinds combined into one.

    Attributes
    ----------
    feature_groups : tuple of F names
        The group of each feature. The features are those of all members.
    members : tuple of K models
        No two of one name, and none of the ensemble's.
    parts : tuple of K Part
    link : "identity" or "logistic"
        With an identity link the intercept is 0, the weights add up to 1, and the inputs are risks.
    intercept : float
    calibration : Calibration
        From the combined score, within 0..1, to risk.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    kind: ClassVar[str] = "ensemble"

    feature_groups: tuple[str, ...]
    members: tuple[Model, ...]
    parts: tuple[Part, ...]
    link: Link
    intercept: float = 0.0
    calibration: Calibration = IDENTITY

    def __post_init__(self) -> None:
        super().__post_init__()
        me = f"ensemble '{self.name}'"
        if not 1 <= len(self.members) <= MAX_MEMBERS or len(self.parts) != len(self.members):
            raise ModelError(
                f"{me}: {len(self.members)} members (1..{MAX_MEMBERS}), {len(self.parts)} parts"
            )
        if len(self.feature_groups) != len(self.feature_names):
            raise ModelError(
                f"{me}: {len(self.feature_groups)} feature groups for "
                f"{len(self.feature_names)} feature names"
            )
        names = [self.name, *self.member_names]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ModelError(
                f"{me}: it and its members need names of their own, {twice[0]!r} is none"
            )
        for member in self.members:
            strangers = sorted(set(member.feature_names) - set(self.feature_names))
            if strangers or not set(member.groups) <= set(self.groups):
                raise ModelError(
                    f"{me}: lacks features or groups of its member '{member.name}' "
                    f"({', '.join(strangers) or 'groups'})"
                )
            if member.catalogue_hash != self.catalogue_hash:
                raise ModelError(
                    f"{me}: its member '{member.name}' was trained with feature catalogue "
                    f"{member.catalogue_hash or '(none)'}, the ensemble with "
                    f"{self.catalogue_hash or '(none)'}"
                )
            for name, version in member.requires.items():
                if self.requires.get(name) != version:
                    raise ModelError(
                        f"{me}: its member '{member.name}' requires {name} {version}, the "
                        f"ensemble {self.requires.get(name) or 'does not'}"
                    )
        weights = [part.weight for part in self.parts]
        figures = [self.intercept, *weights, *(part.average for part in self.parts)]
        if not all(math.isfinite(v) for v in figures):
            raise ModelError(f"{me}: intercept, weights and averages must be finite")
        if min(weights) < 0:
            raise ModelError(f"{me}: weight {min(weights)} is negative")
        if self.link == "identity" and not (
            self.intercept == 0.0
            and math.isclose(math.fsum(weights), 1.0, abs_tol=1e-9)
            and all(part.input == "risk" for part in self.parts)
        ):
            raise ModelError(f"{me}: with an identity link it is a weighted mean of risks")
        _ = self._feature_group_index

    def parameters(self) -> dict[str, Any]:
        """What the manifest holds besides `ModelBase`."""
        members = tuple(
            MemberManifest(
                kind=member.kind,
                name=member.name,
                version=member.version,
                provenance=member.provenance,
                catalogue_hash=member.catalogue_hash,
                groups=list(member.groups),
                features=list(member.feature_names),
                requires=member.requires,
                parameters=member.parameters(),
                thresholds=member.thresholds,
                metrics=member.metrics,
                reference=member.reference,
            )
            for member in self.members
        )
        parameters: dict[str, Any] = to_builtins(
            EnsembleParameters(
                self.feature_groups,
                self.link,
                self.intercept,
                self.parts,
                self.calibration,
                members,
            )
        )
        return parameters

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The members' arrays, each name after its member's number: `0.threshold`."""
        return {
            f"{k}.{name}": array
            for k, member in enumerate(self.members)
            for name, array in member.arrays().items()
        }

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> Self:
        """Build the model and its members from a package; see `Packaged`."""
        p = read_parameters(manifest, EnsembleParameters)
        owned: list[dict[str, NDArray[Any]]] = [{} for _ in p.members]
        for name, array in arrays.items():
            number, _, rest = name.partition(".")
            if not rest or number not in map(str, range(len(owned))):
                raise ModelError(f"the array {name!r} belongs to no member")
            owned[int(number)][rest] = array
        return cls(
            **base_fields(manifest),
            feature_groups=p.feature_groups,
            members=tuple(
                _assemble_member(manifest, member, own)
                for member, own in zip(p.members, owned, strict=True)
            ),
            parts=p.parts,
            link=p.link,
            intercept=p.intercept,
            calibration=p.calibration,
        )

    @property
    def member_names(self) -> tuple[str, ...]:
        """The keys of `Scores.members`, in order."""
        return tuple(member.name for member in self.members)

    @cached_property
    def _feature_group_index(self) -> I32:
        return group_index(self.name, self.feature_groups, self.groups)

    @cached_property
    def _member_features(self) -> list[I32]:
        """For each member the ensemble's index of each of its features."""
        index = {name: i for i, name in enumerate(self.feature_names)}
        return [
            np.array([index[name] for name in member.feature_names], dtype=np.int32)
            for member in self.members
        ]

    @cached_property
    def _member_groups(self) -> list[I32]:
        """For each member the ensemble's index of each of its groups."""
        return [
            np.array([self.groups.index(name) for name in member.groups], dtype=np.int32)
            for member in self.members
        ]

    @cached_property
    def _averages(self) -> F64:
        return np.array([part.average for part in self.parts])

    @cached_property
    def _weights(self) -> F64:
        return np.array([part.weight for part in self.parts])

    @cached_property
    def _expected(self) -> float:
        """The combined score before the link, where every member's input is average."""
        expected = self.intercept
        for part in self.parts:
            expected += part.weight * part.average
        return expected

    def inputs(self, scores: list[Scores]) -> F64:
        """What the ensemble takes of the scores of its members, float64 [K, n]."""
        inputs = np.empty((len(scores), len(scores[0].raw)))
        for k, (part, score) in enumerate(zip(self.parts, scores, strict=True)):
            inputs[k] = member_input(score, part.input)
        return inputs

    def score(self, x: NDArray[Any], column_index: I32) -> Scores:
        """Score rows of the full feature matrix; `Scores.members` has the risk of each member.

        A group's risk is that of the average row had the members moved the score by their share
        of that group alone; a member shares what it adds among the groups by their risks.
        """
        scores = [
            member.score(x, column_index[features])
            for member, features in zip(self.members, self._member_features, strict=True)
        ]
        inputs = self.inputs(scores)
        n, logistic = inputs.shape[1], self.link == "logistic"
        raw = np.empty(n)
        _combine(inputs, self._weights, self.intercept, logistic, raw)
        lifts = np.zeros((n, len(self.groups)))
        for k, score in enumerate(scores):
            _share_lift(
                inputs[k],
                self._averages[k],
                self._weights[k],
                score.group_risk,
                self._member_groups[k],
                lifts,
            )
        return Scores(
            raw,
            self.calibration.risk(raw),
            self._group_risk(lifts),
            {m.name: s.risk for m, s in zip(self.members, scores, strict=True)},
        )

    def _group_risk(self, lifts: F64) -> F64:
        by_group = np.empty(lifts.shape)
        _link_all(lifts, self._expected, self.link == "logistic", by_group)
        risk = self.calibration.risk(by_group)
        risk[lifts <= 0.0] = 0.0
        return risk

    def explain(self, x: NDArray[Any], column_index: I32) -> Contributions:
        """Contributions on the scale before the link.

        Those of each member, rescaled so that they add up to what its input is above its average,
        times its weight: the rescale rule for stacked models of Chen, Lundberg and Lee
        ("Explaining a series of models by propagating Shapley values", Nature Communications 2022).
        """
        inputs = self.inputs(
            [
                member.score(x, column_index[features])
                for member, features in zip(self.members, self._member_features, strict=True)
            ]
        )
        total = np.zeros((len(x), len(self.feature_names)))
        for k, (member, features) in enumerate(
            zip(self.members, self._member_features, strict=True)
        ):
            own = member.explain(x, column_index[features]).features
            lift = (inputs[k] - self._averages[k]) * self._weights[k]
            _rescale(own, lift, features, total)
        return Contributions(
            total,
            sum_by_group(total, self._feature_group_index, len(self.groups)),
            self._expected,
        )

    def explained_risk(self, contributions: Contributions) -> F64:
        """Risk had only one group moved the score from its average, [n, G]; 0 if it lowered it."""
        return self._group_risk(contributions.groups)


def member_input(scores: Scores, wanted: Input) -> F64:
    """What an ensemble takes of a member's scores, float64 [n]."""
    if wanted == "risk":
        return scores.risk
    if wanted == "raw":
        return scores.raw
    out = np.empty(len(scores.raw))
    _log_odds(scores.raw, out)
    return out


def _assemble_member(manifest: Manifest, member: MemberManifest, arrays: Arrays) -> Model:
    from dafu.models.kinds import KINDS  # which lists this kind as well

    if member.kind not in KINDS or member.kind == EnsembleModel.kind:
        raise ModelError(f"member '{member.name}' is of kind {member.kind!r}, which can not be one")
    files: dict[str, FileEntry] = {}
    whole = Manifest(
        format_version=manifest.format_version,
        files=files,
        **msgspec.structs.asdict(member),
    )
    model = KINDS[member.kind].assemble(whole, arrays)
    if not isinstance(model, Model):
        raise ModelError(f"member '{member.name}' of kind {member.kind} does not score rows")
    return model


@kernel
def _link(value: float, logistic: bool) -> float:
    return sigmoid(value) if logistic else min(max(value, 0.0), 1.0)


@kernel
def _combine(inputs: F64, weights: F64, intercept: float, logistic: bool, out: F64) -> None:
    for i in range(inputs.shape[1]):
        value = intercept
        for k in range(inputs.shape[0]):
            value += weights[k] * inputs[k, i]
        out[i] = _link(value, logistic)


@kernel
def _link_all(lifts: F64, expected: float, logistic: bool, out: F64) -> None:
    for i in range(lifts.shape[0]):
        for g in range(lifts.shape[1]):
            out[i, g] = _link(expected + lifts[i, g], logistic)


@kernel
def _share_lift(
    inputs: F64, average: float, weight: float, group_risk: F64, groups: I32, lifts: F64
) -> None:
    for i in range(inputs.shape[0]):
        lift = weight * (inputs[i] - average)
        total = 0.0
        for g in range(groups.shape[0]):
            total += group_risk[i, g]
        if lift > 0.0 and total > 0.0:
            for g in range(groups.shape[0]):
                lifts[i, groups[g]] += lift * (group_risk[i, g] / total)


@kernel
def _rescale(own: F64, lift: F64, features: I32, out: F64) -> None:
    """Add contributions [n, F of the member], scaled to add up to `lift` [n]; even shares if 0."""
    width = own.shape[1]
    for i in range(own.shape[0]):
        total = 0.0
        size = 0.0
        for f in range(width):
            total += own[i, f]
            size += abs(own[i, f])
        # Where they cancel out, a quotient would blow them up: add the difference evenly instead.
        if abs(total) > 1e-3 * size:
            for f in range(width):
                out[i, features[f]] += own[i, f] * (lift[i] / total)
        else:
            for f in range(width):
                out[i, features[f]] += own[i, f] + (lift[i] - total) / width


@kernel
def _log_odds(raw: F64, out: F64) -> None:
    for i in range(raw.shape[0]):
        out[i] = log_odds(raw[i])

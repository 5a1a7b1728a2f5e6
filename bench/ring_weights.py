"""Fits the weights of the parts of a ring's score (`dafu.rings.parting.WEIGHTS`) to known rings.

    dafu generate ... --rings 200 --look-alikes 200 --out w.parquet --truth w.truth.json
    python -m bench.ring_weights w.parquet

Each file passes through all stages, and every group that is scored on the way is an example: a ring
if most of its members are one known ring's. Campaigns of card testing are left out. A group is
looked at many times: those of one ring, and those that begin with the same user and are none, weigh
one together. What is printed is to be rounded and written into `dafu/rings/parting.py` and
`docs/rings.md`; the prior may then be lowered until there are as few mistakes as wanted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple
from unittest.mock import patch

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from dafu.ingest import TransactionReader, load_mapping
from dafu.loading import load_stages
from dafu.network import find_rings, read_truth
from dafu.rings import scoring
from dafu.rings.parting import WEIGHTS
from dafu.rings.truth import KnownGroup, Truth
from dafu.settings import load_settings
from dafu.stages.ring_pipeline import RingPipeline

INVERSE_PENALTY = 10.0


class Example(NamedTuple):
    """A group that was scored: its members, and its parts [len(WEIGHTS)]."""

    members: tuple[str, ...]
    parts: NDArray[np.float64]


def main(
    files: Annotated[list[Path], typer.Argument(help="FILE.parquet; FILE.truth.json beside it.")],
) -> None:
    """Print the prior and the weights that fit these files best."""
    parts: list[NDArray[np.float64]] = []
    verdicts: list[bool] = []
    names: list[str] = []
    for file in files:
        truth = read_truth(file.with_suffix(".truth.json"))
        rings = _rings_of(truth)
        for example in _examples(file):
            owner = _owner(example.members, rings)
            if owner is not None and not owner.is_ring:
                continue
            parts.append(example.parts)
            verdicts.append(owner is not None)
            names.append(f"{file} {owner.group_id if owner else example.members[0]}")
    looks = Counter(names)
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=5_000).fit(
        np.array(parts), np.array(verdicts), sample_weight=[1.0 / looks[name] for name in names]
    )
    typer.echo(f"{len(looks):,} groups, looked at {len(names):,} times")
    typer.echo(f"prior {fitted.intercept_[0]:+.2f}")
    for name, weight in zip(WEIGHTS, fitted.coef_[0], strict=True):
        typer.echo(f"{name:10} {weight:+.2f}")


def _examples(file: Path) -> list[Example]:
    """All groups that are scored while a file passes, once for each change of parts by a tenth."""
    found: list[Example] = []
    told: dict[tuple[str, ...], bytes] = {}

    def look(component: scoring.Component, least: float = 0.0) -> list[scoring.Candidate]:
        scored = scoring.score_groups(component)
        for group, parts in enumerate(scored.parts):
            numbers = scoring.members_of(scored, group)
            members = tuple(component.names[number] for number in numbers)
            about = np.round(parts, 1).tobytes()
            if told.get(members) != about:
                told[members] = about
                found.append(Example(members, parts.copy()))
        return scoring.find_candidates(component, least)

    with patch("dafu.rings.engine.find_candidates", look):
        reader = TransactionReader(file, load_mapping("dafu"), batch_rows=20_000)
        find_rings(reader, RingPipeline(*load_stages(load_settings(), rings=True)))
    return found


def _rings_of(truth: Truth) -> dict[str, list[KnownGroup]]:
    rings: dict[str, list[KnownGroup]] = {}
    for group in truth.groups:
        if group.fraud:
            for user in group.members:
                rings.setdefault(user, []).append(group)
    return rings


def _owner(members: tuple[str, ...], rings: dict[str, list[KnownGroup]]) -> KnownGroup | None:
    """The ring, or else the campaign, that most members are in."""
    by_id = {group.group_id: group for user in members for group in rings.get(user, ())}
    hits = Counter(group.group_id for user in members for group in rings.get(user, ()))
    large = [by_id[name] for name, count in hits.items() if 2 * count > len(members)]
    return min(large, key=lambda group: (not group.is_ring, group.group_id), default=None)


if __name__ == "__main__":
    typer.run(main)

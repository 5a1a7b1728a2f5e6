"""Users who act together, by the devices, addresses, cards and emails that they share.

The same as `dafu rings` on a file: the stream's own stages, rules and model, from empty state.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, structs

from dafu.loading import load_stages
from dafu.network import FoundRing, draw_rings, find_rings, rings_of
from dafu.notebook.errors import NotebookError
from dafu.notebook.prepared import PaymentReader, mapped
from dafu.notebook.tables import TableLike
from dafu.rings.parting import MIN_MEMBERS
from dafu.rings.picture import draw
from dafu.settings import load_settings
from dafu.stages.ring_pipeline import RingPipeline
from dafu.stages.sightings import IDENTIFIERS


class FraudNetwork(FoundRing, frozen=True, gc=False, omit_defaults=True):
    """A ring that can be looked at: the last expression of a notebook's cell shows its picture."""

    def _repr_svg_(self) -> str:
        return draw(self)

    @property
    def user_ids(self) -> list[str]:
        """Its members."""
        return [member.user_id for member in self.members]


class NetworkReport(Struct, frozen=True):
    """Rings, those with the highest score first, in how many transactions."""

    networks: list[FraudNetwork]
    seen: int

    def draw(self, directory: Path | str) -> int:
        """Write a picture of each ring, `<ring_id>.svg`; how many there are.

        Raises
        ------
        OutputFileError
            If the directory or a file can not be written.
        """
        return draw_rings(self.networks, Path(directory))


class NetworkAnalyzer(PaymentReader):
    """Finds rings of users who share what people do not usually share.

    Parameters
    ----------
    columns, time_format
        Which column is what; see `FraudDetector.load_and_analyze_data`.

    Examples
    --------
    See docs/notebooks.md.
    """

    def detect_fraud_networks(
        self,
        transaction_data: TableLike,
        similarity_threshold: float = 0.8,
        min_ring_size: int = MIN_MEMBERS,
    ) -> NetworkReport:
        """Find rings.

        Parameters
        ----------
        transaction_data
            A path, a data frame, an Arrow table, or records, of payments, with a column for one
            at least of device, IP address, card and email; sorted by time if they are not. Rows
            that are no valid transactions are left out.
        similarity_threshold
            0..1. Members are left out who are less alike than this to every other one: 1 minus
            the product, over all that two share, of 1 minus its weight. A device has a weight of
            up to 1, an address of 0.6; what many people use has less.
        min_ring_size
            Members that a ring has at least, 3 or more.

        Raises
        ------
        NotebookError
            If columns are not found, or an argument is out of its range.
        """
        if not 0.0 <= similarity_threshold <= 1.0:
            raise NotebookError(
                f"similarity_threshold is {similarity_threshold}; it must be within 0..1"
            )
        if min_ring_size < MIN_MEMBERS:
            raise NotebookError(
                f"min_ring_size is {min_ring_size}; it must be at least {MIN_MEMBERS}"
            )
        loaded = self._load(transaction_data)
        shared = [field for field in IDENTIFIERS.values() if field in loaded.found.columns]
        if not shared:
            raise NotebookError(
                f"{loaded.named.name} has no column of something that users share. Say which it "
                f'is: columns={{"device_fingerprint": "..."}}, or {", ".join(IDENTIFIERS.values())}'
            )
        pipeline = RingPipeline(*load_stages(load_settings(), rings=True))
        found = find_rings(mapped(loaded, skip_bad=True).batches, pipeline, skip_bad=True)
        rings = rings_of(found.selected(similarity_threshold, min_ring_size))
        networks = [FraudNetwork(**structs.asdict(ring)) for ring in rings]
        return NetworkReport(networks, found.transactions)

"""The text fields of a batch's transactions, as columns of bytes, of JSON or of strings.

Of a plain record (see `dafu.stages.scan`) a text is a span of the record itself and is not copied.
The few others, which have escapes or characters beyond ASCII, come with their decoded document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.columns import ByteColumn
from dafu.stages.scan import NUMBER_FIELDS, TEXT_FIELDS

TEXTS: Final = tuple(field.name for field in TEXT_FIELDS)
"""Names of the text fields, in the order of the columns of `Scan.text_start`."""

PLACES: Final = tuple(field.name for field in NUMBER_FIELDS)
"""Names of the coordinates, in the order of the columns of `Scan.places`."""

_INDEX: Final = {name: k for k, name in enumerate(TEXTS)}

_encode_json = msgspec.json.Encoder().encode


class Texts:
    """Text fields of n records.

    Parameters
    ----------
    records : ByteColumn [n]
    starts, lengths : int [n, T]
        Where in its record each of TEXTS is; the length is NULL where there is none. Without
        meaning for records that have a document.
    documents : mapping of position to an object with the fields as attributes
        The decoded records that are not plain.
    """

    def __init__(
        self,
        records: ByteColumn,
        starts: NDArray[Any],
        lengths: NDArray[Any],
        documents: Mapping[int, Any],
    ) -> None:
        self._records = records
        self._starts = starts
        self._lengths = lengths
        self._documents = documents

    def part(self, rows: NDArray[np.int64]) -> Texts:
        """Those of these records alone."""
        documents = {
            i: self._documents[row]
            for i, row in enumerate(rows.tolist() if self._documents else ())
            if row in self._documents
        }
        starts, lengths = self._starts[rows], self._lengths[rows]
        return Texts(self._records.take(rows), starts, lengths, documents)

    def utf8(self, field: str) -> ByteColumn:
        """A field as UTF-8."""
        return self._column(field, str.encode)

    def json(self, field: str) -> ByteColumn:
        """A field as JSON has it between the quotes."""
        return self._column(field, _between_quotes)

    def strings(self, fields: Sequence[str]) -> list[list[str | None]]:
        """Fields as strings, each of n; reading several at once costs little more than one."""
        n = len(self._records)
        if self._documents or not fields:
            return [self.utf8(field).strings() for field in fields]
        ks = [_INDEX[field] for field in fields]
        starts = (self._records.starts[:, None] + self._starts[:, ks]).T.ravel()
        lengths = self._lengths[:, ks].T.astype(np.int64).ravel()
        found = self._records.elsewhere(starts, lengths).strings()
        return [found[i * n : (i + 1) * n] for i in range(len(fields))]

    def _column(self, field: str, encode: Callable[[str], bytes]) -> ByteColumn:
        k = _INDEX[field]
        starts = self._records.starts + self._starts[:, k]
        plain = self._records.elsewhere(starts, self._lengths[:, k].astype(np.int64))
        if not self._documents:
            return plain
        # Labels and memberships have but some of a transaction's fields.
        texts = [getattr(document, field, None) for document in self._documents.values()]
        others = ByteColumn.of([None if text is None else encode(text) for text in texts])
        at = np.arange(len(plain))
        at[list(self._documents)] = len(plain) + np.arange(len(others))
        return ByteColumn.joined([plain, others]).take(at)


def _between_quotes(text: str) -> bytes:
    return _encode_json(text)[1:-1]

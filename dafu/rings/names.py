"""Texts by row number and row numbers by text, for arrays that have a row a text. Pure."""

from __future__ import annotations

from typing import Final

_SHARDS: Final = 64
NO_ROW: Final = -1


class Names:
    """Rows for texts; a row that was let go is given again.

    The index is split, so that no insertion has to move more than a part of it.

    Examples
    --------
    >>> names = Names()
    >>> names.add("a"), names.add("b"), names.find("a"), names.find("c")
    (0, 1, 0, -1)
    >>> names.drop(0)
    >>> names.add("c"), names.texts
    (0, ['c', 'b'])
    """

    __slots__ = ("_free", "_index", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: list[dict[str, int]] = [{} for _ in range(_SHARDS)]
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.texts) - len(self._free)

    def find(self, text: str) -> int:
        """The row of a text, NO_ROW if it has none."""
        return self._index[hash(text) % _SHARDS].get(text, NO_ROW)

    def add(self, text: str) -> int:
        """A row for a text that has none."""
        if self._free:
            row = self._free.pop()
            self.texts[row] = text
        else:
            row = len(self.texts)
            self.texts.append(text)
        self._index[hash(text) % _SHARDS][text] = row
        return row

    def drop(self, row: int) -> None:
        """Let a row's text go."""
        text = self.texts[row]
        del self._index[hash(text) % _SHARDS][text]
        self.texts[row] = ""
        self._free.append(row)

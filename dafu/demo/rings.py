"""The rings that a demonstration's worker told of, and the one that is worth a picture.

Plain bookkeeping over alerts; nothing is read or printed here.
"""

from __future__ import annotations

from dafu.rings.picture import draw
from dafu.rings.records import RingAlert, decode_alert


class Rings:
    """The latest alert of each ring.

    Attributes
    ----------
    latest : dict
        By the ring's id.
    news : list of RingAlert
        Rings that were opened and not shown yet; whoever shows them empties it.
    """

    def __init__(self) -> None:
        self.latest: dict[str, RingAlert] = {}
        self.news: list[RingAlert] = []
        self._seen: set[str] = set()

    def add(self, payload: bytes) -> None:
        """Take an alert; one that comes again says nothing new."""
        alert = decode_alert(payload)
        if alert.alert_id in self._seen:
            return
        self._seen.add(alert.alert_id)
        if alert.event == "opened":
            self.news.append(alert)
        previous = self.latest.get(alert.ring_id)
        if alert.event != "closed" or previous is None:
            self.latest[alert.ring_id] = alert

    def largest(self) -> RingAlert | None:
        """The ring of accounts with the most members, as it was when it was open."""
        accounts = [a for a in self.latest.values() if a.kind == "accounts"]
        return max(accounts, key=lambda a: (a.size, a.score, a.ring_id), default=None)

    def picture(self) -> tuple[RingAlert, str] | None:
        """The largest ring and its picture as SVG; None before any was found."""
        ring = self.largest()
        return None if ring is None else (ring, draw(ring))

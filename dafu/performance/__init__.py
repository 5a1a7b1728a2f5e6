"""How good the decisions were, once it is known what was fraud.

`accumulator` joins decisions with their labels in whatever order they come, `report` counts what
can be judged at a time. Pure: no clock, no files, no Kafka.
"""

from dafu.performance.accumulator import Performance
from dafu.performance.report import Group, Report, Row

__all__ = ["Group", "Performance", "Report", "Row"]

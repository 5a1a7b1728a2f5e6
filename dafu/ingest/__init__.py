"""Files of payments into transactions: other people's columns, read in batches, as records."""

from dafu.ingest.mapping import Mapping, MappingError, load_mapping
from dafu.ingest.readers import BadRowError, ReadError, TransactionReader, parse_time
from dafu.ingest.records import to_records

__all__ = [
    "BadRowError",
    "Mapping",
    "MappingError",
    "ReadError",
    "TransactionReader",
    "load_mapping",
    "parse_time",
    "to_records",
]

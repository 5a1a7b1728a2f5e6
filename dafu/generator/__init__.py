"""Synthetic card payments with labelled fraud, for demonstrations, tests, training and load.

Deterministic: the same arguments give the same bytes (with the same NumPy release, whose random
streams may change between feature releases). No clock, no global random state.

>>> table = generate(users=50, merchants=20, days=3, seed=7)
>>> table.equals(generate(users=50, merchants=20, days=3, seed=7))
True
>>> table.column_names[:4]
['transaction_id', 'user_id', 'merchant_id', 'amount']
"""

from dafu.generator.plan import DEFAULT_SCENARIOS, SCENARIOS
from dafu.generator.render import GROUP_COLUMNS, GROUP_SCHEMA, LABEL_COLUMNS, SCHEMA
from dafu.generator.simulation import (
    Generated,
    GeneratorError,
    generate,
    generate_traffic,
)
from dafu.generator.write import write, write_truth

__all__ = [
    "DEFAULT_SCENARIOS",
    "GROUP_COLUMNS",
    "GROUP_SCHEMA",
    "LABEL_COLUMNS",
    "SCENARIOS",
    "SCHEMA",
    "Generated",
    "GeneratorError",
    "generate",
    "generate_traffic",
    "write",
    "write_truth",
]

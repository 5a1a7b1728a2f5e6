"""The two stages of a decision as functions from (state, batch) to (state changes, outputs).

Pure: no Faust, no asyncio, no clock. Agents feed them from topics, `dafu score` from files, tests
from lists; the outputs are the same bytes.
"""

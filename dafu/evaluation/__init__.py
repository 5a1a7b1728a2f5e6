"""How good detection is: protocol, metrics, intervals, drift. Pure, but for the report's files."""

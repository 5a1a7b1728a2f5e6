"""Pure feature code: windows, behaviour, geography. No clock, no I/O, no Faust."""

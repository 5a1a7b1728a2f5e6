"""Fraud rings: who shares what, which of it ties users together, and what that amounts to.

Pure: functions of (state, records) to (state, records), without Faust, clock or I/O.
"""

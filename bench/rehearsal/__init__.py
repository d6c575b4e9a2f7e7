"""A GPU that does nothing, to rehearse the host's side: torch and triton find an H100 that obeys the rules of captures.

The libraries that torch and triton call are stood in for (`stand_ins/`, in C): allocations, streams, events, captures
behave as on a card, kernels are compiled and launched, and nothing is computed. `python -m bench.rehearsal` runs a
program on it; docs/rehearsal.md says what that shows, and what it cannot.
"""

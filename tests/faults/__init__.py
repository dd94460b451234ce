"""Processes that are killed, stopped and cut off, with the provider's calls counted.

    pytest tests/faults                       # 50 kills in test_sidecar_killed, as many other faults
    pytest tests/faults --kills 500           # as many as you like; each takes a second or two
    pytest tests/faults --seed 207175934      # the faults of a run before; its seed is printed with each failure

A run ends with a table: for each kind of fault how many there were, items, calls at the provider, items that were
called more than once (repeats), items whose result says `maybe_billed` (marks), items without a result (lost), and
items that had a durable result and were called again (completed, paid twice). The last two columns are always 0, and
repeats never exceed marks: `House.check` fails otherwise.
"""

"""Benchmarks: what things cost beside what they could cost, measured side by side.

    make bench                              # every case, some minutes each
    make bench CASES="all-layers one-layer" # these alone; the others' figures stay as they were

Nothing here is timed inside the tests; `test_benchmarks.py` runs every case at tiny size.
"""

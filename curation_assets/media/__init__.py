"""Media: what a video is and holds. Pure PyAV and NumPy, no Dagster, no tables, no stores.

Data flows through the modules in this order: `source` (open), `probe` (header), `packets` (one demux: the packet index), `spans` (clips), `frames` and
the measures on them. `timing` has the one conversion from ticks to nanoseconds.
"""

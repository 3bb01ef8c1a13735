"""Media: what a video is and holds. Pure PyAV and NumPy, no Dagster, no tables, no stores.

Data flows through the modules in this order: `source` (open), `probe` (header, best stream), `packets` (one demux: the packet index; with `demux`,
`bitstream` and `truncation`), `spans` (clips), `frames` and the measures on them. `transcode` makes clips' files (with `encoders`, `pictures`, `audio`,
`smart_cut`, `verify` and the modules `clip_*`), `preview` makes animations. `timing` has the one conversion from ticks to nanoseconds, `errors` the one
exception. `synthetic` makes videos for the demo, the benchmarks and the tests.
"""

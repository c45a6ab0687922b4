"""Speed side by side: each stage of mskd beside the library that a user would otherwise take, in one run.

One module a stage says what both sides do and when their answers agree; `pairing` alternates and times them, `sides`
gives each a process of its own, `table` renders the rows. `commands` and `growth` time ours alone, `profile` looks into
a training step. `python -m benchmarks.speed --help`, or `mskd bench`.
"""

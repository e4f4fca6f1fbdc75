"""What a run will take, before it starts: memory, tokens and hours.

`probe` measures this on the machine at hand in a few seconds. `roofline` computes it for hardware
that is not at hand, from the data sheets in `hardware`, as a `layout`. `workload` says how much a
run has still to draw, and `lines` puts the plan into words.
"""

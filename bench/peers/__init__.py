"""fvfast against other renderers, doing the same work in turns.

`python -m bench.peers.setup` once, then `python -m bench.peers`.

The same work: the bundled EfficientNet-Lite0 with its weights and its own normalisation, in float32 on a CPU; the mean
of the same channel (of one layer, or a class's logit) as the objective; a square canvas of the same size; the same
number of steps; the same number of threads, all pinned to the same processors. Everything else is each renderer's own:
its image parameterisation, its random views, its optimiser and learning rate, called as its documentation calls it.

What cannot be the same stands in each module of `bench.peers.loops`, and as a note in the table.
"""

"""The kernels' compiled code, run without a GPU: an emulator of PTX in numpy, with checks and a cost model.

`python -m bench.ptx check`, `cost` and `mutate`; docs/emulator.md says what they cover.
"""

"""Measurements behind the figures in README and docs; run each as `python -m bench.NAME`."""

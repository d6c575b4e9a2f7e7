"""The stages of `python -m bench.gpu_report`, and what runs them, keeps what they find and puts it into words."""

"""Everything with input or output: run as `python -m experiments.NAME configs/X.toml`."""

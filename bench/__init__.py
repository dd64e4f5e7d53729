"""Named operations with units, each beside its peer and its limit in the same run: ``python -m bench.NAME``."""

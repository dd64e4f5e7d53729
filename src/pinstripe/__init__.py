"""A parallel, compressed, checksummed, atomic file store that lives inside the job."""

__version__ = "0.1.0"

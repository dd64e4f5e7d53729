"""What is written: text made of files of this machine, smooth fields, random bytes."""

import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def text(length: int) -> Bytes:
    """The sources of Python's own library, one after the other, as often as it takes."""
    library = Path(sysconfig.get_path("stdlib"))
    parts = [path.read_bytes() for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    return np.resize(np.frombuffer(b"".join(parts), np.uint8), length)


def noise(length: int, seed: int = 1) -> Bytes:
    return np.frombuffer(np.random.default_rng(seed).bytes(length), np.uint8)


def field(length: int) -> npt.NDArray[Any]:
    """A smooth float64 field with a little noise."""
    x = np.arange(length // 8)
    return 3 * np.sin(x / 500) + np.cos(x / 77) + 0.001 * np.random.default_rng(1).normal(size=len(x))

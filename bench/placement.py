"""Where frames may lie: layouts of raw 1 MiB frames beside plain calls: ``python -m bench.placement [--runs N] [--json]``.

The decision that follows from it is docs/design/0002-frame-placement.md.
"""

import os
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from bench.harness import Case, Missing, Table, compare, main

Call = Callable[[int, list[memoryview], int], int]

FRAME = 1 << 20
COUNT = 32
PAGE = 4096
TMPFS = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


def evenly(first: int, step: int) -> list[int]:
    return [first + k * step for k in range(COUNT)]


def by_rule() -> list[int]:
    """Back to back behind a segment's header, but 128 bytes away from page borders, as `FrameBatch.place` does it."""
    offsets = [64 + 384]
    for _ in range(COUNT - 1):
        offset = offsets[-1] + FRAME + 384
        phase = offset % PAGE
        offsets.append(offset + (128 - phase if phase < 128 else PAGE + 128 - phase if phase > PAGE - 128 else 0))
    return offsets


# Offsets of the payloads; in between lie header and gap.
LAYOUTS = {
    "by the rule": by_rule(),
    "384-byte headers, back to back": evenly(448, FRAME + 384),
    "page of header, payload on a page": evenly(PAGE, FRAME + PAGE),
    "page of header, payload at 16 in a page": evenly(16, FRAME + PAGE),
    "page of header, payload at 64 in a page": evenly(64, FRAME + PAGE),
    "page of header, payload at 384 in a page": evenly(384, FRAME + PAGE),
    "page of header, payload at 2048 in a page": evenly(2048, FRAME + PAGE),
    "plain: no headers": evenly(0, FRAME),
}


def at_phase(phase: int) -> npt.NDArray[np.uint8]:
    """Memory for all payloads whose address is `phase` modulo the page, touched."""
    room = np.ones(COUNT * FRAME + 2 * PAGE, np.uint8)
    return room[(phase - room.ctypes.data) % PAGE :][: COUNT * FRAME]


def case(call: Call, offsets: list[int], per_call: int, memory: memoryview) -> Case:
    fd = os.open(TMPFS, os.O_TMPFILE | os.O_RDWR)
    os.pwrite(fd, bytes(offsets[-1] + FRAME), 0)
    between = memoryview(bytearray(PAGE))

    def run() -> None:
        for k in range(0, COUNT, per_call):
            vectors = [memory[k * FRAME : (k + 1) * FRAME]]
            for n in range(k + 1, k + per_call):
                vectors += [between[: offsets[n] - offsets[n - 1] - FRAME], memory[n * FRAME : (n + 1) * FRAME]]
            call(fd, vectors, offsets[k])

    return run


def layouts(runs: int, call: Call, phase: int) -> Table:
    memory = memoryview(at_phase(phase))
    cases: dict[str, Case | Missing] = {name: case(call, offsets, 8, memory) for name, offsets in LAYOUTS.items()}
    for per_call in (1, 32):
        cases[f"by the rule, {per_call} a call"] = case(call, by_rule(), per_call, memory)
    title = f"{call.__name__}, 8 frames a call, memory at {phase} in a page"
    return compare(cases, runs, title=title, moved_bytes=COUNT * FRAME)


def tables(runs: int) -> list[Callable[[], Table]]:
    return [partial(layouts, runs, call, phase) for call in (os.preadv, os.pwritev) for phase in (16, 0, 64)]


if __name__ == "__main__":
    main(tables)

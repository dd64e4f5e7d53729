"""Which targets a writer of a file spreads over: the superblock's, as layout, rank and their state say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..format.layout import Layout
from ..options import Options
from ..targets.contract import Access, Target
from .placement import spread, striped_targets
from .writer import FrameWriter

if TYPE_CHECKING:
    from .store import Store

__all__ = ["open_writer", "usable_targets"]


def usable_targets(store: Store, layout: Layout) -> list[Target]:
    """The targets that new frames of a file of this layout may go to."""
    states = {entry.id: entry.state for entry in store.superblock.targets}
    active = [t for t in store.targets if states.get(t.id) != "drain"]
    return [t for t in active if layout.pool is None or t.pool == layout.pool]


def open_writer(
    store: Store,
    file_id: bytes,
    tx: bytes,
    stream: int,
    layout: Layout,
    access: Access,
    options: Options,
    *,
    rank: int,
    ranks: int,
    threads: int,
    make_room: Callable[[Target], bool] | None = None,
) -> FrameWriter:
    """Make the writer of one stream of a transaction; see `FrameWriter`. Nothing is made on a target before its first frame."""
    usable = usable_targets(store, layout)
    first = int.from_bytes(file_id[:4], "little")
    chosen = striped_targets(len(usable), layout.stripe_count, first)
    mine = spread(chosen, rank, ranks, options.max_segments)
    spares = [k for k in [*chosen, *range(len(usable))] if k not in mine]
    return FrameWriter(
        file_id,
        tx,
        stream,
        [usable[k] for k in mine],
        [usable[k] for k in dict.fromkeys(spares)],
        access,
        block_bytes=layout.block_bytes,
        codec=layout.codec_number,
        batch_bytes=options.batch_bytes,
        acceleration=options.acceleration,
        threads=threads,
        make_room=make_room,
    )

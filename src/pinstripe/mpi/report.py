"""Report: what a collective file decided and what it cost, on each rank and in sum."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from .agree import Operation, agree

if TYPE_CHECKING:
    from .collective import CollectiveFile

__all__ = ["Decisions", "RankCost", "Report", "gather_report"]


@dataclasses.dataclass(frozen=True, slots=True)
class RankCost:
    """Seconds and bytes of one rank, or of all.

    Attributes
    ----------
    agree_s, plan_s, exchange_s, compress_s, checksum_s, write_s, sync_s, index_s, commit_s, read_s : float
        Time of each stage. Compression and checksums are sums over threads; stages overlap, so they do not add up to
        the time that passed.
    raw_bytes, stored_bytes : int
        Written, before and after compression.
    exchange_bytes, messages : int
        Sent to other ranks.
    put_bytes : int
        Of `exchange_bytes`, those that went straight from one rank's memory to another's, on one host.
    read_bytes : int
        Read from frames, decoded.
    stripes_in_place, stripes_assembled : int
        Whole stripes that the rank held itself, and that it put together of several ranks' pieces.
    """

    agree_s: float = 0.0
    plan_s: float = 0.0
    exchange_s: float = 0.0
    compress_s: float = 0.0
    checksum_s: float = 0.0
    write_s: float = 0.0
    sync_s: float = 0.0
    index_s: float = 0.0
    commit_s: float = 0.0
    read_s: float = 0.0
    raw_bytes: int = 0
    stored_bytes: int = 0
    exchange_bytes: int = 0
    messages: int = 0
    put_bytes: int = 0
    read_bytes: int = 0
    stripes_in_place: int = 0
    stripes_assembled: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Decisions:
    """What was chosen.

    Attributes
    ----------
    ranks, owners : int
        Ranks of the communicator, and those that own stripes.
    writers : int
        Ranks that wrote frames.
    targets : dict
        Path of each target that was written to, and the bytes of its segments.
    left : dict
        Path of each target that a rank gave up, and why.
    codecs : dict
        Blocks stored ``raw``, as ``lz4``, as ``planes``, and as ``zero``.
    writes, reads : dict
        Collective calls by the way they were done.
    rounds : int
        Rounds of all exchanges.
    overlaps : int
        Rounds in which a higher rank's bytes replaced a lower one's.
    exchange : str
        What was exchanged and why, in words.
    """

    ranks: int
    owners: int
    writers: int
    targets: dict[str, int]
    left: dict[str, str]
    codecs: dict[str, int]
    writes: dict[str, int]
    reads: dict[str, int]
    rounds: int
    overlaps: int
    exchange: str


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a collective file decided and cost since it was opened. ``str()`` gives a table.

    Attributes
    ----------
    path : str
    generation : int
    decisions : Decisions
    ranks : tuple of RankCost
        In rank order.
    total : RankCost
        Their sum.
    slowest : RankCost
        The largest of each number on any rank.
    """

    path: str
    generation: int
    decisions: Decisions
    ranks: tuple[RankCost, ...]
    total: RankCost
    slowest: RankCost

    def __str__(self) -> str:
        made, total = self.decisions, self.total
        ratio = f"{total.raw_bytes / total.stored_bytes:.2f}" if total.stored_bytes else "-"
        codecs = ", ".join(f"{count} {name}" for name, count in made.codecs.items() if count) or "none"
        lines = [
            f"{self.path}, generation {self.generation}",
            f"  {made.ranks} ranks, {made.owners} own stripes, {made.writers} wrote; {made.exchange}",
            f"  raw {_size(total.raw_bytes)}, stored {_size(total.stored_bytes)} (ratio {ratio}); blocks: {codecs}",
        ]
        lines += [f"  target {path}: {_size(nbytes)}" for path, nbytes in sorted(made.targets.items())]
        lines += [f"  target {path} was left: {why}" for path, why in sorted(made.left.items())]
        lines.append(f"  {'stage':<10}{'sum':>10}{'slowest':>10}")
        for field in dataclasses.fields(RankCost):
            if field.name.endswith("_s"):
                name, spent = field.name[:-2], (getattr(total, field.name), getattr(self.slowest, field.name))
                lines.append(f"  {name:<10}{spent[0]:>9.3f}s{spent[1]:>9.3f}s")
        return "\n".join(lines)


_SECONDS = ("compress", "checksum", "write", "sync", "index", "commit", "read")
_BLOCKS = {"raw": "raw_blocks", "lz4": "lz4_blocks", "planes": "shuffled_blocks", "zero": "zero_blocks"}


def gather_report(file: CollectiveFile) -> Report:
    """Collective. Bring the counters of all ranks together. An error on one rank is raised on all."""
    error: BaseException | None = None
    mine: dict[str, Any] = {}
    try:
        mine = _counted(file)
    except Exception as caught:
        error = caught
    agree(file.channel, Operation.report, file.serial, error)
    text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    told = (
        [json.loads(array.tobytes()) for array in file.session.team.allgather(text)]
        if file.channel.size > 1
        else [mine]
    )
    ranks = tuple(RankCost(**one["cost"]) for one in told)
    names = [field.name for field in dataclasses.fields(RankCost)]
    columns = {name: [getattr(rank, name) for rank in ranks] for name in names}
    return Report(
        file.session.path,
        file.session.generation,
        _decisions(file, told),
        ranks,
        RankCost(**{name: sum(column) for name, column in columns.items()}),
        RankCost(**{name: max(column) for name, column in columns.items()}),
    )


def _counted(file: CollectiveFile) -> dict[str, Any]:
    file.backlog.drain()
    session, stages = file.session, file.stages
    counters = session.totals()
    cost = RankCost(
        agree_s=stages.agree_ns / 1e9,
        plan_s=stages.plan_ns / 1e9,
        exchange_s=stages.exchange_ns / 1e9,
        **{f"{name}_s": getattr(counters, f"{name}_ns") / 1e9 for name in _SECONDS},
        raw_bytes=counters.raw_bytes,
        stored_bytes=counters.stored_bytes,
        exchange_bytes=stages.exchange_bytes,
        messages=stages.messages,
        put_bytes=stages.put_bytes,
        read_bytes=counters.read_bytes,
        stripes_in_place=stages.stripes_in_place,
        stripes_assembled=stages.stripes_assembled,
    )
    return {
        "cost": dataclasses.asdict(cost),
        "blocks": {name: getattr(counters, field) for name, field in _BLOCKS.items()},
        "targets": counters.target_bytes,
        "left": counters.left,
        "overlaps": stages.overlaps,
    }


def _decisions(file: CollectiveFile, told: list[dict[str, Any]]) -> Decisions:
    targets: dict[str, int] = {}
    left: dict[str, str] = {}
    for one in told:
        left |= one["left"]
        for path, nbytes in one["targets"].items():
            targets[path] = targets.get(path, 0) + nbytes
    stages = file.stages  # these are the same on all ranks
    return Decisions(
        ranks=file.channel.size,
        owners=file.ownership.owners,
        writers=sum(one["cost"]["stored_bytes"] > 0 for one in told),
        targets=targets,
        left=left,
        codecs={name: sum(one["blocks"][name] for one in told) for name in _BLOCKS},
        writes={"contiguous": stages.contiguous, "interleaved": stages.interleaved, "leftovers": stages.leftovers},
        reads={"direct": stages.direct_reads, "shared": stages.shared_reads},
        rounds=stages.rounds,
        overlaps=sum(one["overlaps"] for one in told),
        exchange=_in_words(file),
    )


def _in_words(file: CollectiveFile) -> str:
    stages, hints = file.stages, file.hints
    words = []
    if stages.contiguous:
        words.append(f"{stages.contiguous} contiguous writes: only stripes shared at the ends of pieces travelled")
    if stages.interleaved:
        why = (
            "exchange_write=always"
            if hints.options.exchange_write == "always"
            else "ranks hold several pieces each, or overlap"
        )
        if not file.ownership.all_own:
            why = f"max_segments={hints.options.max_segments} lets only {file.ownership.owners} ranks write"
        words.append(f"{stages.interleaved} interleaved writes in {stages.rounds} rounds ({why})")
    if stages.leftovers:
        words.append(f"{stages.leftovers} times independent writes left partial stripes")
    if stages.shared_reads:
        why = "exchange_read=always" if hints.options.exchange_read == "always" else "ranks wanted the same stripes"
        words.append(f"{stages.shared_reads} reads by owners for all ({why})")
    if stages.direct_reads:
        words.append(f"{stages.direct_reads} reads by each rank for itself")
    return "; ".join(words) or "nothing was exchanged"


def _size(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"

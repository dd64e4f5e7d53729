"""Stages: what one rank's collective calls decided and cost, counted as they go. `report` gathers them."""

from __future__ import annotations

import dataclasses

__all__ = ["Stages"]


@dataclasses.dataclass(slots=True)
class Stages:
    """Counters of one open file on one rank; nanoseconds and bytes.

    Attributes
    ----------
    exchange_ns, exchange_bytes, messages : int
        Packing, sending, waiting and checking; bytes and messages that left this rank.
    put_bytes : int
        Of `exchange_bytes`, those that went straight from one rank's memory to another's.
    plan_ns, rounds : int
        Finding out who sends what to whom; rounds of exchanges.
    agree_ns, agreements : int
        Waiting for the others to say what they do.
    contiguous, interleaved, leftovers : int
        Collective writes of each pattern, and how often independent writes had left partial stripes.
    direct_reads, shared_reads : int
        Collective reads in which each rank reads for itself, and in which owners read for all.
    stripes_in_place, stripes_assembled : int
        Whole stripes written by the rank that held them, and by the owner that put them together.
    overlaps : int
        Rounds in which a higher rank's bytes replaced a lower one's.
    """

    exchange_ns: int = 0
    exchange_bytes: int = 0
    messages: int = 0
    put_bytes: int = 0
    plan_ns: int = 0
    rounds: int = 0
    agree_ns: int = 0
    agreements: int = 0
    contiguous: int = 0
    interleaved: int = 0
    leftovers: int = 0
    direct_reads: int = 0
    shared_reads: int = 0
    stripes_in_place: int = 0
    stripes_assembled: int = 0
    overlaps: int = 0

    def count_put(self, nbytes: int) -> None:
        """Count bytes that this rank copied straight to or from another rank's memory."""
        self.exchange_bytes += nbytes
        self.put_bytes += nbytes

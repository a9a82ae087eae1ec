"""Which replica gets a request: a function of a few numbers. Pure.

A conversation goes where it went before, as long as that replica has not much more to do than the
others: rendezvous hashing with bounded load, which needs no memory of what went where. Else the one
with the least in flight.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

_MASK = (1 << 64) - 1


class Standing(NamedTuple):
    """What the choice needs to know of one replica.

    `seed` is a hash of its address, `in_flight` what it works on, `room` how much it can do at the
    same time; 0 when it must not be used, less than usual while it warms up.
    """

    seed: int
    in_flight: int
    room: float


def hash_of(data: bytes) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def choose(
    standings: Sequence[Standing], key: int | None, weight: int, affinity_load: float, chance: float
) -> int | None:
    """The place in `standings` of the replica to use, None when none may be used.

    `key` is a hash of what a conversation's requests have in common, None where nothing is known;
    `weight` how much the request occupies. A replica is full for those who come by their key when
    it would have more than its room, or more than `affinity_load` times the mean. `chance` (0 to 1)
    decides between equals.
    """
    usable = [place for place, standing in enumerate(standings) if standing.room > 0]
    if not usable:
        return None
    if key is not None and len(usable) > 1:
        total = weight
        for place in usable:
            total += standings[place].in_flight
        bound = max(weight, math.ceil(affinity_load * total / len(usable)))
        best, best_rank = -1, -1
        for place in usable:
            seed, in_flight, room = standings[place]
            if in_flight + weight <= room and in_flight + weight <= bound:
                rank = _rank(seed, key)
                if rank > best_rank:
                    best, best_rank = place, rank
        if best >= 0:
            return best
    start = int(chance * len(usable))
    return min(
        usable[start:] + usable[:start],
        key=lambda place: (standings[place].in_flight + weight) / standings[place].room,
    )


def _rank(seed: int, key: int) -> int:
    """How much a key likes a replica: a mix of both that looks like chance (splitmix64)."""
    mixed = ((seed ^ key) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)

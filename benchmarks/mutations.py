"""Damage to files, as disks, networks and attackers do it."""

import traceback

import numpy as np

# Sizes and offsets that are none: nothing, the largest, the lowest, and 20,000.
NUMBERS = (0, 2**32 - 1, 2**31, 20_000)
EXTREMES = [
    np.array([n], order).view("uint8") for n in NUMBERS for order in ("<u4", ">u4")
]


def mutate(contents, rng):
    """Damages a file's bytes in one to three of the ways in which they are damaged."""
    for _ in range(rng.integers(1, 4)):
        # Half of all damage is near the beginning, where a file says what it is.
        most = len(contents) if rng.random() < 0.5 else 64
        start = int(rng.integers(0, max(most, 1)))
        before, part, after = np.split(
            np.frombuffer(contents, "uint8"), [start, start + 8]
        )
        noise = rng.integers(0, 256, len(part), "uint8")
        bit = np.uint8(1 << rng.integers(0, 8))
        ways = [
            [before, part[:1] ^ bit, part[1:], after],
            [before, noise, after],
            [before, EXTREMES[rng.integers(0, len(EXTREMES))], part[4:], after],
            [before, noise, part, after],
            [before, after],
            [before, part, part, after],
            [before],
        ]
        contents = np.concatenate(ways[rng.integers(0, len(ways))]).tobytes()
    return contents


def told():
    """Prints a traceback."""
    traceback.print_exc()
    return "traceback"

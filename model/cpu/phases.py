"""Which blocks of the trunk an area of the map goes through before it needs the others. Computes nothing."""

from collections.abc import Sequence

from model.network.hiera import MultiScaleBlock


def phases_of(blocks: Sequence[MultiScaleBlock]) -> list[range]:
    """Divide all blocks: those of nested windows, then by turns one that attends everywhere and others."""
    start, stop, phases = 0, _num_nested(blocks), list[range]()
    while start < len(blocks):
        phases.append(range(start, stop))
        start, stop = stop, stop + 1
        while stop < len(blocks) and blocks[start].window_size > 0 and blocks[stop].window_size > 0:
            stop += 1
    return phases


def _num_nested(blocks: Sequence[MultiScaleBlock]) -> int:
    """How many of the first blocks have the windows that the blocks before leave."""
    side = blocks[0].window_size
    for i, block in enumerate(blocks):
        if block.window_size != side:
            return i
        side //= 2 if block.pools else 1
    return len(blocks)

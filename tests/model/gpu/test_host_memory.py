"""Host memory for results and uploads: used again, never given back, and done without where there is none."""

import gc
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from model.gpu.host_memory import SMALLEST_BLOCK, BlockSource, ResultBlocks, Staging
from tests.model.gpu.host_gpu import HostMark

MIB = 2**20


class System:
    """Counts the blocks that it gives; refuses beyond `most`."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.given: list[int] = []
        self.asked = 0

    def allocate(self, nbytes: int) -> Tensor:
        self.asked += 1
        if len(self.given) == self.most:
            raise RuntimeError("CUDA error: out of memory")
        self.given.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)


def test_a_block_is_lent_again_once_the_last_view_is_dropped() -> None:
    system = System()
    blocks = ResultBlocks(BlockSource(system.allocate))
    planes = blocks.lend(3, 2, 64, 64, dtype=torch.float32)
    assert (planes.shape, planes.dtype, planes.is_contiguous()) == ((3, 2, 64, 64), torch.float32, True)
    view = planes.numpy()[:, 1][1:]
    view[...] = 7
    del planes
    others = [blocks.lend(3, 2, 64, 64, dtype=torch.float32) for _ in range(2)]
    for other in others:
        other.fill_(0)
    assert (view == 7).all()
    assert system.given == [128 * 1024] * 3
    address = view.__array_interface__["data"][0]
    del view, other, others
    gc.collect()
    again = [blocks.lend(3, 2, 64, 64, dtype=torch.float32) for _ in range(3)]
    assert len(system.given) == 3
    starts = [each.data_ptr() for each in again]
    assert any(start <= address < start + 128 * 1024 for start in starts)


def test_other_threads_give_blocks_back_while_more_are_lent() -> None:
    system = System()
    blocks = ResultBlocks(BlockSource(system.allocate))
    for _ in range(200):
        held = [blocks.lend(1000, dtype=torch.float32).numpy()[i:] for i in range(3)]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    assert system.given == [SMALLEST_BLOCK] * 3


def test_whoever_holds_results_for_long_leaves_others_ordinary_memory() -> None:
    system = System()
    blocks = ResultBlocks(BlockSource(system.allocate), most_bytes=2 * MIB)
    held = [blocks.lend(MIB, dtype=torch.uint8) for _ in range(5)]
    assert system.given == [MIB] * 2
    assert len({each.data_ptr() for each in held}) == 5
    del held[0]
    small = blocks.lend(10, dtype=torch.uint8)  # a larger block is better than none
    assert system.given == [MIB] * 2
    assert small.nbytes == 10


def test_where_no_memory_can_be_pinned_copies_are_slower_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in the Linux subsystem of Windows, which limits it: before, every click got 500."""
    system = System(most=1)
    source = BlockSource(system.allocate)
    blocks, staging = ResultBlocks(source), Staging(source, piece_bytes=8)
    held = [blocks.lend(9000, dtype=torch.uint8) for _ in range(4)]
    array, into = np.arange(20, dtype=np.uint8), torch.zeros(20, dtype=torch.uint8)
    for staged, place in staging.pieces(torch.from_numpy(array), into, HostMark):
        place.copy_(staged)
    assert into.tolist() == array.tolist()
    assert (len(held), system.asked) == (4, 2)
    assert caplog.text.count("no more pinned memory") == 1


def test_a_block_for_uploads_is_filled_again_only_when_its_copy_is_done() -> None:
    waited: list[int] = []

    class Mark(HostMark):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            self.number = Mark.made
            Mark.made += 1

        def wait(self) -> None:
            waited.append(self.number)

    staging = Staging(BlockSource(System().allocate), piece_bytes=8)
    into = torch.zeros(40, dtype=torch.uint8)
    seen = []
    for staged, place in staging.pieces(torch.arange(40, dtype=torch.uint8), into, Mark):
        seen.append((staged.data_ptr(), list(waited)))
        place.copy_(staged)
    assert into.tolist() == list(range(40))
    blocks = [block for block, _ in seen]
    assert blocks[:2] * 2 + blocks[:1] == blocks
    assert [before for _, before in seen] == [[], [], [0], [0, 1], [0, 1, 2]]

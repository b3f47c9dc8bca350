"""Does pinned memory that other threads free spoil a capture? python tests/bench/probes/race_probe.py [separate]

torch notes on a pinned block which streams have copied into it, and whoever frees the block records an event on
each. If such a stream is capturing at that moment, the event belongs to the capture, and the next allocation of
pinned memory fails with cudaErrorCapturedEvent. `separate` captures on a stream that never carries copies, where
that cannot happen. Five seconds on a GPU. Does not know about ours.
"""

import queue
import sys
import threading
import time

import torch

ROUNDS = 200
BLOCKS = 16
SHAPE = (3, 256, 256)


def main() -> int:
    """Count the rounds that fail; 1 where captures have a stream of their own, and one fails nevertheless."""
    if not torch.cuda.is_available():
        print("race_probe needs a GPU")
        return 2
    separate = "separate" in sys.argv[1:]
    copies = torch.cuda.Stream(priority=-1)
    captures = torch.cuda.Stream(priority=-1) if separate else copies
    source = torch.zeros(SHAPE, device="cuda")
    dropped: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
    thread = threading.Thread(target=drop, args=(dropped,), daemon=True)
    thread.start()
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs: list[torch.cuda.CUDAGraph] = []
    failed = []
    for _ in range(ROUNDS):
        try:
            with torch.cuda.stream(copies):
                held = copied(source, copies)
            with torch.cuda.stream(captures):
                graphs.append(captured(source, captures, pool, held, dropped))
        except RuntimeError as error:
            failed.append(str(error).splitlines()[0])
    dropped.put(None)
    thread.join()
    print(f"separate={separate}: {len(failed)} of {ROUNDS} rounds failed {failed[:2]}")
    return 1 if failed and separate else 0


def drop(dropped: "queue.SimpleQueue[torch.Tensor | None]") -> None:
    """Free each tensor, as a worker frees a prediction."""
    while (held := dropped.get()) is not None:
        del held


def copied(source: torch.Tensor, stream: torch.cuda.Stream) -> list[torch.Tensor]:
    """Pinned copies of `source`, complete."""
    held = []
    for _ in range(BLOCKS):
        host = torch.empty(SHAPE, pin_memory=True)
        host.copy_(source, non_blocking=True)
        held.append(host)
        del host
    stream.synchronize()
    return held


def captured(
    source: torch.Tensor,
    stream: torch.cuda.Stream,
    pool: tuple[int, int],
    held: list[torch.Tensor],
    dropped: "queue.SimpleQueue[torch.Tensor | None]",
) -> torch.cuda.CUDAGraph:
    """A graph, while whose capture goes on another thread frees what is held."""
    source.add_(0)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    while held:
        dropped.put(held.pop())
    for _ in range(100):
        source.add_(0)
    time.sleep(0.002)
    graph.capture_end()
    return graph


if __name__ == "__main__":
    sys.exit(main())

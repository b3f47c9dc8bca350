"""Which backend takes how long for attention of our shapes? python tests/bench/probes/sdpa_probe.py [--rehearse]

For each shape and backend: the first call, in which cuDNN builds a plan, then the mean of twenty in a graph. The
shapes are those of sam2.1_hiera_large, bfloat16. `--rehearse` runs the smallest on a CPU. Does not know about ours.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {  # batch or windows, heads, queries, keys, channels of a head
    "stage 1, windows of 8": (1024, 2, 64, 64, 72),
    "stage 2, pooling": (1024, 4, 16, 64, 72),
    "stage 2, windows of 4": (1024, 4, 16, 16, 72),
    "stage 3, pooling": (1024, 8, 4, 16, 72),
    "stage 3, windows of 16": (16, 8, 256, 256, 72),
    "stage 3, global": (1, 8, 4096, 4096, 72),
    "stage 3, global, 8 pictures": (8, 8, 4096, 4096, 72),
    "stage 4, pooling": (16, 16, 64, 256, 72),
    "stage 4, windows of 8": (16, 16, 64, 64, 72),
    "decoder, tokens": (1, 8, 8, 8, 32),
    "decoder, tokens to picture": (1, 8, 8, 4096, 16),
    "decoder, picture to tokens": (1, 8, 4096, 8, 16),
    "decoder, tokens to picture, 64 clicks": (64, 8, 8, 4096, 16),
    "decoder, picture to tokens, 64 clicks": (64, 8, 4096, 8, 16),
}

BACKENDS = {
    "default": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

CALLS = 20


def main() -> int:
    """Print a line for each shape."""
    rehearse = "--rehearse" in sys.argv[1:]
    if not rehearse and not torch.cuda.is_available():
        print("sdpa_probe needs a GPU")
        return 2
    device = "cpu" if rehearse else "cuda"
    name = "a rehearsal" if rehearse else torch.cuda.get_device_name()
    order = torch._C._get_sdp_priority_order()
    print(torch.__version__, name, "cuDNN", torch.backends.cudnn.version(), "order", order)
    for shape, (b, heads, queries, keys, dim) in SHAPES.items():
        if rehearse and b > 1:
            continue
        qkv = [made(b, heads, length, dim, device) for length in (queries, keys, keys)]
        line = [f"{shape:40} choice {torch._fused_sdp_choice(*qkv)}"]
        backends = ["default"] if rehearse else list(BACKENDS)
        line += [f"{backend}: {measured(backend, qkv, device)}" for backend in backends]
        print(" | ".join(line), flush=True)
    return 0


def made(b: int, heads: int, length: int, dim: int, device: str) -> Tensor:
    """Random (b, heads, length, dim), in memory as a projection leaves it."""
    rows = torch.randn(b, length, heads * dim, device=device, dtype=torch.bfloat16)
    return rows.unflatten(2, (heads, dim)).transpose(1, 2)


def measured(backend: str, qkv: list[Tensor], device: str) -> str:
    """In words: milliseconds of the first call, microseconds of the others; or why it refuses."""
    chosen = BACKENDS[backend]
    try:
        with torch.inference_mode(), sdpa_kernel([chosen]) if chosen else nullcontext():
            call = lambda: F.scaled_dot_product_attention(*qkv)  # noqa: E731
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            first_ms = 1000 * (time.perf_counter() - began)
            return f"first {first_ms:.1f} ms, then {others_us(call, device):.1f} us"
    except RuntimeError as error:
        return str(error).splitlines()[0][:60]


def others_us(call: Callable[[], Tensor], device: str) -> float:
    """The mean of CALLS: in a graph, by the GPU's clock; on a CPU by its own."""
    if device != "cuda":
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        return 1e6 * (time.perf_counter() - began) / CALLS
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
        stream.synchronize()
        graph.capture_begin()
        for _ in range(CALLS):
            call()
        graph.capture_end()
        graph.replay()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        stream.synchronize()
    return 1000 * begin.elapsed_time(end) / CALLS


if __name__ == "__main__":
    sys.exit(main())

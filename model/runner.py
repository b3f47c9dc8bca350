"""Runs SAM 2 on one device: preprocessing, batches of what is mixed, precision, warm-up.

Beside devices.py and gpu/cuda.py the only file that calls torch.cuda. One thread owns the device: not thread-safe.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.batches import Finish, Jobs, T, as_it_is, in_chunks, in_groups
from model.checkpoints.halves import VideoSource, load_image_half
from model.cpu.decoder import CpuDecoder, Floor, mask_of
from model.cpu.encoder import CpuEncoder
from model.cpu.search_decoder import SearchDecoder
from model.cpu.threads import Threads, set_up_thread
from model.devices import resolve_device, resolve_dtype
from model.gpu.cuda import Cuda
from model.gpu.device import GpuDevice
from model.gpu.engine import GpuEngine, guarded, naming_the_settings
from model.gpu.faults import Faults
from model.gpu.options import GpuOptions
from model.network.config import VARIANTS
from model.network.mask_decoder import DecoderOutput, choose_masks
from model.network.point_tokens import mask_inputs, num_point_tokens, point_tokens
from model.network.preprocessing import PREPROCESSING, Preprocessing
from model.network.sam2 import Sam2
from model.tracking import Tracking
from model.types import Embedding, Logits, Pixels, Prediction, Prompt, join_subpixels, to_subpixels

log = logging.getLogger(__name__)

MAX_DECODE_CHUNK = 16
"""Prompts of one token count in one forward: each holds 8 MiB of float32 while it runs."""

GPU_DEFAULTS = GpuOptions()
_UNTRAINED = " (untrained)"


class Sam2Runner:
    """A model on its device. Implements the Segmenter that app/ asks for."""

    def __init__(
        self,
        model: Sam2,
        *,
        name: str,
        weights_fingerprint: str,
        gpu: GpuDevice | None = None,
        gpu_options: GpuOptions = GPU_DEFAULTS,
        video: VideoSource | None = None,
    ) -> None:
        """`gpu` is the device of `model`, if model/gpu can drive it; without `video`, that half is random."""
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.config = model.config
        self.name, self.variant = name, name.removesuffix(_UNTRAINED)
        self.device, self.dtype = model.no_mem_embed.device, model.no_mem_embed.dtype
        self._fingerprinted = (name, weights_fingerprint, str(self.config), PREPROCESSING)
        self.fingerprint = self.fingerprint_in(self.dtype)
        """Names model, weights, preprocessing and precision: equal fingerprints, interchangeable embeddings."""
        self._cpu_decoder = CpuDecoder(model) if self.device.type == "cpu" else None
        self._search_decoder = SearchDecoder(model)
        self.threads = Threads(torch.get_num_threads()) if self.device.type == "cpu" else None
        with torch.inference_mode():
            model.image_encoder.trunk.fix_size(model.config.mask_size, model.config.mask_size)
        self._preprocess = Preprocessing(side=self.config.image_size, device=self.device)
        self._engine: GpuEngine | None = None
        self._faults = Faults(gpu, device_name=self.device_name)
        self.tracking = Tracking(
            model,
            video or VideoSource(self.config, name, None, weights_fingerprint),
            decode=self.decode,
            named=lambda: guarded(self._faults, self._engine),
            working=self._working,
        )
        if gpu is None:
            self._encoder = CpuEncoder(model)
        else:
            self._cpu_decoder = None
            with self._faults.named():
                self._engine = GpuEngine(model, gpu, gpu_options, preprocess=self._preprocess.by_channel)
            self.tracking.most_bytes = self._engine.track_bytes

    @property
    def device_name(self) -> str:
        """cpu, cuda:0."""
        return str(self.device)

    @property
    def cpu_threads(self) -> int:
        """Threads of a matrix product on the CPU, a core each unless told otherwise; 0 on a GPU."""
        return self.threads.most if self.threads is not None else 0

    def fingerprint_in(self, dtype: torch.dtype) -> str:
        """Return the fingerprint that this model has in another precision."""
        encoder_dtype = torch.float32 if self.config.exact_encoder else dtype
        parts = (*self._fingerprinted, f"{encoder_dtype} {dtype}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def dtype_name(self) -> str:
        """float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of low-resolution logits and of mask_logits."""
        return self.config.mask_size, self.config.mask_size

    def memory_bytes(self) -> int | None:
        """Memory of the GPU that torch holds for this process, in use or not; None on a CPU. For any thread."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None

    @property
    def shares_host_memory(self) -> bool:
        """Whether embeddings on the device lie in host memory anyway."""
        return self.device.type == "cpu"

    @property
    def cache_bytes(self) -> int | None:
        """Bytes for embeddings in the memory of the GPU, all taken at the start; None on a CPU."""
        return self._engine.cache_bytes if self._engine is not None else None

    @torch.inference_mode()
    def adopt(self, embedding: Embedding) -> Embedding:
        """An embedding from host memory or a file, with equal fingerprint, as this device decodes it fastest.

        Raises NoFreeSlot, on a GPU alone, where the memory for embeddings is all held, DeviceOutOfMemory and
        DeviceLost.
        """
        if self._engine is not None:
            with self._faults.named():
                return self._engine.adopt(embedding)
        if embedding.first_projections or self._cpu_decoder is None:
            return embedding
        return replace(embedding, first_projections=self._cpu_decoder.prepare(embedding.image_rows))

    @torch.inference_mode()
    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """Embed pictures (height, width, 3), uint8 RGB, of any sizes.

        `between` is called every few milliseconds, and may decode. Raises NoFreeSlot, on a GPU alone, where the
        memory for embeddings is all held; DeviceOutOfMemory where the batch does not fit; and DeviceLost.
        """
        with self._faults.named():
            if self._engine is not None:
                return self._engine.encode(images, between=between)
            with self._working(between) as pause:
                return [self._embedding(image, pause) for image in images]

    @torch.inference_mode()
    def expect(self, images: Sequence[Pixels]) -> None:
        """Upload pictures that will be encoded next, to a GPU alone. For `between`, while others are encoded."""
        if self._engine is not None:
            self._engine.expect(images)

    @torch.inference_mode()
    def decode(self, jobs: Jobs) -> list[Prediction]:
        """Predict masks for any mix of pictures and prompts; one prediction per job, in order.

        A padding point changes the numbers, so only prompts with the same number of point tokens share a forward.
        Links of a refinement in float32 and searches go apart: see model/cpu/. Raises as `encode`.
        """
        with self._faults.named(), self._working() as pause:
            return self._decode(jobs, as_it_is, most=MAX_DECODE_CHUNK, pause=pause)

    @torch.inference_mode()
    def search(self, jobs: Jobs, finish: Finish[T], *, between: Callable[[], None] = lambda: None) -> list[T]:
        """Decode as `decode`, and return what `finish`, on any thread, makes of each job's place and prediction.

        `between` may decode. It is called every few milliseconds, or before each forward that is not of a search.
        """
        with self._faults.named(), self._working(between) as pause:
            return self._decode(jobs, finish, most=max(1, self.cpu_threads), pause=pause)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every stage once, so that the first user does not pay for what is set up lazily.

        Raises ValueError where a GPU has too little memory; the message names the settings. Raises DeviceLost.
        """
        if self._engine is not None:
            with self._faults.named():
                self._engine.warm_up()
            return
        side = self.config.image_size
        embedding = self.encode([np.zeros((side, side, 3), np.uint8)])[0]
        self.decode([(embedding, Prompt(points=((1.0, 1.0),), labels=(1,)))])

    def _working(
        self, between: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Callable[[], None]]:
        """See Threads.working; on a GPU the host's threads are left alone."""
        return self.threads.working(between) if self.threads is not None else nullcontext(between)

    def _embedding(self, image: Pixels, between: Callable[[], None]) -> Embedding:
        image_embed, feat_s0, feat_s1 = self._encoder(self._preprocess(torch.from_numpy(image)), between)
        side = self.config.embedding_size
        image_rows = image_embed.flatten(1).T.clone(memory_format=torch.contiguous_format)
        return Embedding(
            image_rows=image_rows,
            feat_s1_rows=to_subpixels(feat_s1, side),
            feat_s0_rows=to_subpixels(feat_s0, side),
            first_projections=self._cpu_decoder.prepare(image_rows) if self._cpu_decoder else (),
            height=image.shape[0],
            width=image.shape[1],
        )

    def _decode(self, jobs: Jobs, finish: Finish[T], *, most: int, pause: Callable[[], None]) -> list[T]:
        """See `search`. `most` prompts go into one forward on a CPU, except those of a search."""

        def run(some: Jobs, finish: Finish[T]) -> list[T]:
            if self._searches(some[0][1]):
                return self._search_decoder.decode(some, finish=finish, between=pause)
            if (engine := self._engine) is not None:
                return in_chunks(some, engine.decode, finish, most=engine.most_prompts, pause=pause)
            return in_chunks(some, self._decode_alike, finish, most=most, pause=pause)

        kinds = [(num_point_tokens(p), self._keeps_order(p), self._searches(p) and id(e)) for e, p in jobs]
        return in_groups(jobs, kinds, run, finish)

    def _decode_alike(self, jobs: Jobs) -> list[Prediction]:
        output = self._output(jobs, keeps_order=self._keeps_order(jobs[0][1]))
        chosen = choose_masks(
            output,
            multimask=[prompt.multimask_output for _, prompt in jobs],
            delta=self.config.decoder.stability_delta,
            threshold=self.config.decoder.stability_threshold,
        )
        scores = zip(output.iou.cpu().numpy(), output.object_score.tolist(), strict=True)
        return [
            Prediction(self._in_rows_and_columns(logits[kept]), iou[kept], score).above(prompt.iou_floor)
            for (_, prompt), logits, kept, (iou, score) in zip(
                jobs, output.logits, chosen, scores, strict=True
            )
        ]

    def _searches(self, prompt: Prompt) -> bool:
        return self._cpu_decoder is not None and SearchDecoder.takes(prompt)

    def _keeps_order(self, prompt: Prompt) -> bool:
        """Whether rounding as Meta's code does is worth its time: half precision rounds more than that anyway."""
        return self.dtype == torch.float32 and prompt.in_refinement

    def _in_rows_and_columns(self, logits: Tensor) -> Logits:
        """Logits of k masks as the decoder leaves them to (k, h, w)."""
        if self._cpu_decoder is not None:
            logits = join_subpixels(logits, self.config.embedding_size)
        return logits.cpu().numpy()

    def _output(self, jobs: Jobs, *, keeps_order: bool) -> DecoderOutput:
        """What the decoder says, all tokens of it, to jobs whose prompts are equally long."""
        embeddings, prompts = zip(*jobs, strict=True)
        placed = point_tokens(jobs, image_size=self.config.image_size)
        coords, labels = (torch.from_numpy(each).to(self.device) for each in placed)
        if self._cpu_decoder is None:
            mask_logits, has_mask = mask_inputs(prompts, side=self.config.mask_size)
            image_embed, feat_s0, feat_s1 = zip(*(e.maps() for e in embeddings), strict=True)
            return self.model.decode(
                torch.stack(image_embed),
                torch.stack(feat_s0),
                torch.stack(feat_s1),
                coords=coords,
                labels=labels,
                mask_logits=torch.from_numpy(mask_logits).to(self.device, self.dtype),
                has_mask=torch.from_numpy(has_mask).to(self.device),
            )
        points = self.model.sam_prompt_encoder.embed_points(coords, labels)
        masks, floors = [mask_of(p) for p in prompts], [Floor.of(p) for p in prompts]
        return self._cpu_decoder.decode(embeddings, points, masks, keeps_order=keeps_order, floors=floors)


def load_runner(
    variant: str,
    *,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    image_size: int | None = None,
    threads: int = 0,
    cpus: int | None = None,
    gpu_options: GpuOptions = GPU_DEFAULTS,
) -> Sam2Runner:
    """Build `variant` on its device from a file or folder of weights, or with random weights where it is None.

    `device` is "auto", "cpu", "cuda" or "cuda:N", `dtype` "auto", "float32", "bfloat16" or "float16". Raises
    ValueError for a device that is not there or has too little memory, and CheckpointError for a file that does not
    fit. `image_size` is what the model sees of a picture, where not what its variant says. `threads` is the most
    that the CPU uses; 0 is one for each core, at most `cpus`.
    """
    config = VARIANTS[variant]
    if image_size is not None:
        config = replace(config, image_size=image_size)
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    set_up_thread(threads, cpus=cpus)
    with naming_the_settings(gpu_options) if torch_device.type == "cuda" else nullcontext():
        model, fingerprint = load_image_half(
            config, checkpoint, variant=variant, device=torch_device, dtype=torch_dtype
        )
    name = variant if checkpoint is not None else f"{variant}{_UNTRAINED}"
    gpu = Cuda(torch_device) if torch_device.type == "cuda" else None
    if gpu is None and gpu_options.compile == "on":
        log.warning("SAM2_COMPILE=on is for GPUs; on %s nothing is compiled.", torch_device)
    return Sam2Runner(
        model,
        name=name,
        weights_fingerprint=fingerprint,
        gpu=gpu,
        gpu_options=gpu_options,
        video=VideoSource(config, variant, checkpoint, fingerprint),
    )

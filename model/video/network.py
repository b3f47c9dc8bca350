"""The networks that a track asks, on their device: features in, masks, pointers and memories out.

Does not know which frames there are, or what is kept of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from itertools import islice
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.config import VideoConfig
from model.network.mask_decoder import choose_masks
from model.network.memory import VideoMemory
from model.network.memory_attention import Remembered
from model.network.point_tokens import point_tokens
from model.network.prompt_encoder import PADDING
from model.network.sam2 import Sam2
from model.types import LOGIT_LIMIT, Embedding, Prompt
from model.video.values import ABSENT, MaskPrompt, Output, Request, Seen

_SURE = 10.0
"""The logits of a user's mask, and its object score; negative where it is not."""

_TOGETHER = 4
"""Objects that a CPU decodes between two pauses, and that a GPU follows at once: each takes 105 MiB in half
precision while it attends to memories of seven frames, and a track may have 64. See model/gpu/room.py."""

_FRAMES_TOGETHER = 7 * _TOGETHER
"""Memories that a GPU attends to at once. Frames with a prompt are never forgotten, so one object may have more."""

_Between = Callable[[], None]


class FastVideoMemory(Protocol):
    """What VideoMemory does, as a device does it fastest. Calls `between` every few milliseconds."""

    def condition(self, features: Tensor, remembered: Sequence[Remembered], between: _Between) -> Tensor:
        """See VideoMemory."""

    def remember(
        self, features: Tensor, masks: Iterator[Tensor], present: Tensor, between: _Between
    ) -> list[Tensor]:
        """Memories (h * w, m) of objects whose masks (16 h, 16 w) are drawn when they are needed."""


class DeviceNetwork:
    """Sam2 and VideoMemory on one device. Not thread-safe: the thread that owns the device calls it."""

    def __init__(
        self,
        model: Sam2,
        memory: VideoMemory,
        *,
        fast: FastVideoMemory | None = None,
        named: Callable[[], AbstractContextManager[object]] = nullcontext,
        working: Callable[[_Between], AbstractContextManager[_Between]] = nullcontext,
    ) -> None:
        """`model` decodes, in the precision of `memory` or a higher one, and needs no image encoder. `fast` works
        in the place of `memory`, with its weights. `named` and `working` surround everything that runs on the
        device: see the runner.
        """
        self._model, self._memory, self._fast = model, memory, fast
        self._named, self._working = named, working
        self._between: _Between = lambda: None
        self._config = model.config
        self._device = model.no_mem_embed.device
        self._dtype, self._memory_dtype = model.no_mem_embed.dtype, memory.dtype

    @property
    def video(self) -> VideoConfig:
        """How far memories reach."""
        return self._memory.video

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the logits."""
        return self._config.mask_size, self._config.mask_size

    def calling(self, between: _Between) -> "DeviceNetwork":
        """The same network, which calls `between` every few milliseconds, if it has a `fast` one."""
        other = copy(self)
        other._between = between
        return other

    @contextmanager
    def _running(self) -> Iterator[_Between]:
        with torch.inference_mode(), self._named(), self._working(self._between) as pause:
            yield pause

    def decode(self, embedding: Embedding, requests: Sequence[Request]) -> list[Output]:
        """Several objects on one frame, whose clicks are equally many, as one batch."""
        with self._running() as pause:
            outputs: list[Output] = []
            # A CPU attends for all at once: what they have in common is computed once.
            for alike in _fitting(requests) if self._fast is None else [requests]:
                features = self._conditioned(embedding, [request.seen for request in alike], pause)
                for start in range(0, len(alike), _TOGETHER):
                    some = slice(start, start + _TOGETHER)
                    outputs += self._decoded(embedding, features[some], alike[some])
                    pause()
            return outputs

    def _decoded(self, embedding: Embedding, features: Tensor, requests: Sequence[Request]) -> list[Output]:
        coords, labels = self._points(embedding, [request.clicks for request in requests])
        earlier = [
            None if each.earlier is None else each.earlier.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            for each in requests
        ]
        return self._ask_decoder(
            embedding,
            features,
            coords=coords,
            labels=labels,
            masks=earlier,
            multimask=wants_best_of_three(requests),
        )

    def take_mask(self, embedding: Embedding, prompt: MaskPrompt) -> Output:
        """The user's mask as the answer; the decoder is asked for the object pointer alone."""
        with self._running():
            side = self._config.image_size
            drawn = torch.from_numpy(np.ascontiguousarray(prompt.mask)).to(self._device, torch.float32)
            mask = (_resized(drawn[None, None], side, antialias=True) >= 0.5).float()
            present = bool(mask.any())
            logits = _resized(mask * 2 * _SURE - _SURE, self._config.mask_size, antialias=True)[0, 0]
            coords, labels = self._points(embedding, [None])
            (answer,) = self._ask_decoder(
                embedding,
                self._plain(embedding).T.unflatten(1, (self._config.embedding_size, -1))[None],
                coords=coords,
                labels=labels,
                masks=[self._memory.mask_downsample(mask.to(self._memory_dtype))[0, 0]],
                multimask=[False],
            )
            pointer = answer.pointer if present else self._memory.no_obj_ptr[0]
            return Output(logits, pointer, object_score=_SURE if present else -_SURE, iou=1.0)

    def remember(self, embedding: Embedding, outputs: Sequence[Output], *, prompted: bool) -> list[Tensor]:
        """Memories of several objects on one frame. Of a prompted one, only the sign of the mask is remembered."""
        with self._running() as pause:
            present = torch.tensor([output.present for output in outputs], device=self._device)
            features = self._plain(embedding).T.unflatten(1, (self._config.embedding_size, -1))[None]
            masks = (
                self._drawn(output.logits, prompted=prompted)
                for output in outputs
                if output.logits is not None
            )
            if self._fast is not None:
                return self._fast.remember(features, masks, present, pause)
            memories: list[Tensor] = []
            while drawn := list(islice(masks, _TOGETHER)):
                some = slice(len(memories), len(memories) + len(drawn))
                made = self._memory.remember(features, torch.stack(drawn)[:, None], present[some])
                # Tensors of their own: a view would keep all objects' memories alive for as long as one.
                memories += [each.clone() for each in made]
            return memories

    def _drawn(self, logits: Tensor, *, prompted: bool) -> Tensor:
        """Logits (h, w) to a mask of 0..1 in pixels of the model's picture."""
        mask = _resized(logits[None, None], self._config.image_size, antialias=False)[0, 0]
        return (mask > 0).float() if prompted else mask.sigmoid()

    def _plain(self, embedding: Embedding) -> Tensor:
        """Features (h * w, c) for `memory`, without the "no memory" embedding, which is part of a stored embedding.

        A stored embedding was rounded with it, so this is off by half of the embedding's last bit: 2^-9 of it in
        bfloat16, 2^-12 in float16, 2^-25 in float32. Meta's features are rounded once without it.
        """
        rows = embedding.image_rows
        added = self._model.no_mem_embed[0].to(rows.dtype)  # rounded as it was when it was added
        return (rows.float() - added.float()).to(self._memory_dtype)

    def _conditioned(self, embedding: Embedding, seen: Sequence[Seen | None], pause: _Between) -> Tensor:
        """Features (b, c, h, w) for the decoder, one for each object."""
        remembered = [self._memory.gather(each.memories, each.pointers) for each in seen if each is not None]
        if not remembered:
            side = self._config.embedding_size
            return embedding.image_rows.T.unflatten(1, (side, side)).expand(len(seen), -1, -1, -1)
        if self._fast is not None:
            return self._fast.condition(self._plain(embedding), remembered, pause)
        return self._memory.condition(self._plain(embedding), remembered)

    def _points(self, embedding: Embedding, clicks: Sequence[Prompt | None]) -> tuple[Tensor, Tensor]:
        """Coordinates (b, n, 2) and labels (b, n).

        Where there are no clicks there are two tokens that are no point: Meta's predictor gives one, and its prompt
        encoder another.
        """
        coords = np.zeros((len(clicks), 2, 2), np.float32)
        labels = np.full((len(clicks), 2), PADDING)
        given = [each for each in clicks if each is not None]
        if given:
            coords, labels = point_tokens(
                [(embedding, each) for each in given], image_size=self._config.image_size
            )
        return torch.from_numpy(coords).to(self._device), torch.from_numpy(labels).to(self._device)

    def _ask_decoder(
        self,
        embedding: Embedding,
        features: Tensor,
        *,
        coords: Tensor,
        labels: Tensor,
        masks: Sequence[Tensor | None],
        multimask: Sequence[bool],
    ) -> list[Output]:
        _, feat_s0, feat_s1 = (each.to(self._dtype) for each in embedding.maps())
        mask_logits = torch.zeros(len(masks), 1, *self.mask_size, dtype=self._dtype, device=self._device)
        for i, mask in enumerate(masks):
            if mask is not None:
                mask_logits[i, 0] = mask
        output, tokens = self._model.decode_with_tokens(
            features.to(self._dtype).contiguous(),
            feat_s0[None],
            feat_s1[None],
            coords=coords,
            labels=labels,
            mask_logits=mask_logits,
            has_mask=torch.tensor([mask is not None for mask in masks], device=self._device),
        )
        decoder = self._config.decoder
        chosen = choose_masks(
            output, multimask=multimask, delta=decoder.stability_delta, threshold=decoder.stability_threshold
        )
        of_mask = [
            1 + int(iou[1:].argmax()) if several else place.start
            for iou, several, place in zip(output.iou, multimask, chosen, strict=True)
        ]
        # The single mask's pointer is that of its own token, also where another one is more stable.
        of_pointer = [mask if several else 0 for mask, several in zip(of_mask, multimask, strict=True)]
        objects = range(len(masks))
        present = output.object_score > 0
        logits = output.logits[objects, of_mask].masked_fill(~present[:, None, None], ABSENT)
        pointers = self._memory.point_to(tokens[objects, of_pointer], present)
        scores = zip(output.object_score.tolist(), output.iou[objects, of_mask].tolist(), strict=True)
        return [
            Output(each.clone(), pointer.clone(), score, iou)
            for each, pointer, (score, iou) in zip(logits, pointers, scores, strict=True)
        ]


def _fitting(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """Neighbours, as many as may be followed at once on a GPU."""
    alike: list[Request] = []
    frames = 0
    for each in requests:
        more = len(each.seen.memories) if each.seen is not None else 0
        if len(alike) == _TOGETHER or (alike and frames + more > _FRAMES_TOGETHER):
            yield alike
            alike, frames = [], 0
        alike.append(each)
        frames += more
    if alike:
        yield alike


def wants_best_of_three(requests: Sequence[Request]) -> list[bool]:
    """Whether the best of three masks is wanted: of no click or one. The corners of a box count as clicks."""
    return [
        each.clicks is None or (len(each.clicks.points) + 2 * (each.clicks.box is not None)) <= 1
        for each in requests
    ]


def _resized(maps: Tensor, side: int, *, antialias: bool) -> Tensor:
    """Maps (b, 1, h, w) to (b, 1, side, side)."""
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias)

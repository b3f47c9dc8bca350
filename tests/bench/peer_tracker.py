"""transformers' Sam2VideoModel with our weights: the peer that follows objects through a video.

It gets the maps of our encoder, so that no side's time holds an encode. Does not know about time.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.network.config import VARIANTS
from tests.bench import torchvision_operators  # noqa: F401  # before transformers
from tests.bench.peer_transformers import transformers_config
from tests.bench.sides import Maps
from tests.bench.weights import VARIANT, transformers_video_state

from transformers import (  # isort: skip
    Sam2VideoConfig,
    Sam2VideoInferenceSession,
    Sam2VideoModel,
    Sam2VideoPromptEncoderConfig,
)


class TransformersTracker:
    """Implements Tracker of video_section.py, on the CPU."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        maps: Sequence[Maps],
        *,
        dtype: torch.dtype,
        size: tuple[int, int],
        variant: str = VARIANT,
    ) -> None:
        """`maps` are the embeddings of the frames, in order; `size` is the height and width of a frame."""
        side = VARIANTS[variant].image_size
        config = Sam2VideoConfig(
            vision_config=transformers_config(variant).vision_config,
            prompt_encoder_config=Sam2VideoPromptEncoderConfig(image_size=side),
            image_size=side,
            rope_parameters={"rope_type": "axial", "rope_theta": 10_000.0},
        )
        model = Sam2VideoModel(config)  # not on the meta device, because some buffers are not in the state
        model.load_state_dict(transformers_video_state(state), strict=True)
        self.model = model.to(dtype).eval().requires_grad_(False)
        self._dtype, self._size, self._side = dtype, size, side
        self._features = [self._as_cached(each) for each in maps]
        self.session: Sam2VideoInferenceSession

    @torch.inference_mode()
    def begin(self, clicks: Sequence[tuple[float, float]]) -> None:
        """Start anew, with an object for each click (x, y) on the first frame."""
        count = len(self._features)
        self.session = Sam2VideoInferenceSession(
            video=torch.empty(count, 0),  # the frames are encoded already
            video_height=self._size[0],
            video_width=self._size[1],
            dtype=self._dtype,
            max_vision_features_cache_size=count,
        )
        for frame, features in enumerate(self._features):
            self.session.cache.cache_vision_features(frame, features)
        scale = torch.tensor([self._side / self._size[1], self._side / self._size[0]])
        for object_id, click in enumerate(clicks):
            index = self.session.obj_id_to_idx(object_id)
            points = {
                "point_coords": (torch.tensor(click) * scale).view(1, 1, 1, 2).to(self._dtype),
                "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
            }
            self.session.add_point_inputs(index, 0, points)
            self.session.obj_with_new_inputs.append(object_id)
        self.step(0)

    @torch.inference_mode()
    def step(self, frame: int) -> npt.NDArray[np.float32]:
        """Follow the objects to a frame: logits (objects, h, w)."""
        return self.model(self.session, frame_idx=frame).pred_masks[:, 0].float().numpy()

    @property
    def held_bytes(self) -> int:
        """Bytes of all that the session holds of objects; the features of frames not counted."""
        outputs = [
            output
            for kinds in self.session.output_dict_per_obj.values()
            for by_frame in kinds.values()
            for output in by_frame.values()
        ]
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for output in outputs
            for tensor in output.values()
            if isinstance(tensor, Tensor)
        }
        return sum(storages.values())

    @torch.inference_mode()
    def _as_cached(self, maps: Maps) -> dict[str, list[Tensor]]:
        """Maps as the session caches them: (h * w, 1, c), finest first, without the "no memory" embedding."""
        features = [
            torch.from_numpy(maps[name]).flatten(2).permute(2, 0, 1)
            for name in ("high_res_feats_0", "high_res_feats_1", "image_embed")
        ]
        features[-1] = features[-1] - self.model.no_memory_embedding.float()
        encoding = self.model.vision_encoder.neck.position_encoding(
            torch.Size(maps["image_embed"].shape), torch.device("cpu"), torch.float32
        )
        positions = encoding.flatten(2).permute(2, 0, 1)
        return {
            "vision_feats": [each.to(self._dtype) for each in features],
            "vision_pos_embeds": [positions.to(self._dtype)],
        }

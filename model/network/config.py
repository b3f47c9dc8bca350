"""The shapes of the eight released SAM 2 models and of the built-in one, as plain data.

Figures of the released ones from the configuration files of Meta's release (sam2/configs/sam2 and
sam2/configs/sam2.1). The image half of SAM 2 and SAM 2.1 is the same network with other weights; the video half of
2.1 has three parameters more.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HieraConfig:
    """The trunk: Hiera (arXiv 2306.00989) with windowed absolute position embeddings (arXiv 2311.05613)."""

    embed_dim: int
    """Channels of the first stage; each following stage doubles them."""
    num_heads: int
    """Attention heads of the first stage; each following stage doubles them."""
    stages: tuple[int, int, int, int]
    """Blocks in each stage."""
    global_attention_blocks: tuple[int, ...]
    """Indices of the blocks that attend over the whole map."""
    position_embedding_size: tuple[int, int] = (7, 7)
    """Height and width of the learned background position embedding."""
    window_sizes: tuple[int, int, int, int] = (8, 4, 14, 7)
    """Side of an attention window in each stage."""

    @property
    def depth(self) -> int:
        """Blocks in all stages together."""
        return sum(self.stages)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Index of the last block of each stage."""
        return tuple(sum(self.stages[: i + 1]) - 1 for i in range(len(self.stages)))

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage, finest first."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.stages)))


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The mask decoder and its two-way transformer; the same in every release."""

    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    stability_delta: float = 0.05
    """The single mask is stable when the IoU of its thresholds at +-delta reaches stability_threshold."""
    stability_threshold: float = 0.98


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """What SAM 2 adds to track objects through a video (arXiv 2408.00714, 4 and D.1)."""

    says_absence: bool
    """SAM 2.1: an embedding in the memory of a frame says that the object is not on it."""
    says_distance: bool
    """SAM 2.1: object pointers carry how many frames ago they were made."""
    memory_dim: int = 64
    """Channels of a memory."""
    num_memories: int = 7
    """Rows of the temporal encoding: one for conditioning frames, one for each distance of the others."""
    num_pointers: int = 16
    """Frames whose object pointers can be seen, the present one among them."""
    attention_depth: int = 4
    attention_mlp_dim: int = 2048
    fuser_depth: int = 2

    @property
    def reach(self) -> int:
        """Frames away at which an ordinary frame's memory is seen last: 6."""
        return self.num_memories - 1


@dataclass(frozen=True, slots=True)
class Sam2Config:
    """One model. `image_size` must be a multiple of 32 (patches of 4, pooled three times)."""

    trunk: HieraConfig
    image_size: int = 1024
    embed_dim: int = 256
    """Channels of the neck, the prompts and the decoder."""
    mask_in_chans: int = 16
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    exact_encoder: bool = False
    """Whether the image encoder stays in float32 where the rest runs in half precision, on any device; on a CPU its
    products are in bfloat16 all the same. Much of what half precision changes in a mask comes from there."""
    video: VideoConfig | None = field(default=None, repr=False)
    """None: the model knows pictures only. Not in the repr, of which fingerprints of embeddings are made."""

    def __post_init__(self) -> None:
        """Refuse a picture size that the strides do not divide."""
        if self.image_size <= 0 or self.image_size % 32:
            raise ValueError(f"image_size must be a positive multiple of 32, not {self.image_size}")

    @property
    def embedding_size(self) -> int:
        """Side of the image embedding: 64 at 1024 px."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution logits: 256 at 1024 px."""
        return self.image_size // 4


_TINY = HieraConfig(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_attention_blocks=(5, 7, 9))
_SMALL = HieraConfig(embed_dim=96, num_heads=1, stages=(1, 2, 11, 2), global_attention_blocks=(7, 10, 13))
_BASE_PLUS = HieraConfig(
    embed_dim=112,
    num_heads=2,
    stages=(2, 3, 16, 3),
    global_attention_blocks=(12, 16, 20),
    position_embedding_size=(14, 14),
)
_LARGE = HieraConfig(
    embed_dim=144,
    num_heads=2,
    stages=(2, 6, 36, 4),
    global_attention_blocks=(23, 33, 43),
    window_sizes=(8, 4, 16, 8),
)

_BUILTIN = HieraConfig(
    embed_dim=48,
    num_heads=1,
    stages=(1, 2, 5, 2),
    global_attention_blocks=(3, 4, 5, 6, 7, 8, 9),
    window_sizes=(8, 4, 16, 8),
)

BUILTIN = "builtin"
"""The model that this project trains (model/training) and ships (model/weights)."""

BUILTIN_IMAGE_SIZE = 448
"""What the built-in model sees of a picture: its weights were trained at 256 to 384 px and evaluate well from 384
to 480 (model/weights/README.md); more costs time."""

_VIDEO_2_0 = VideoConfig(says_absence=False, says_distance=False)
_VIDEO_2_1 = VideoConfig(says_absence=True, says_distance=True)

VARIANTS: dict[str, Sam2Config] = {
    f"{release}_hiera_{size}": Sam2Config(trunk, video=video)
    for release, video in (("sam2.1", _VIDEO_2_1), ("sam2", _VIDEO_2_0))
    for size, trunk in (("tiny", _TINY), ("small", _SMALL), ("base_plus", _BASE_PLUS), ("large", _LARGE))
} | {BUILTIN: Sam2Config(_BUILTIN, image_size=BUILTIN_IMAGE_SIZE, exact_encoder=True)}
"""Configuration of each model by the name that SAM2_MODEL takes."""

"""Which devices SAM2_DEVICES names, and what of the machine each of them gets.

Does not know the engine.
"""

from dataclasses import dataclass
from typing import Any

from app.cluster.ray_environment import GPU
from app.limits import memory_limit_bytes, whole_cpus
from app.service.loading import AUTO_SHARE
from app.settings import Settings

SECRETS = {"api_keys", "label_studio_api_key"}
"""Settings that a Front alone needs."""
OF_THE_FRONT = SECRETS | {"cluster", "devices", "host", "port"}

OF_DEVICES_ALONE = {
    *(
        "model",
        "checkpoint",
        "weights_dir",
        "weights_url",
        "device",
        "dtype",
        "compile",
        "threads",
        "watchdog_s",
    ),
    *("cache_dir", "register_url", "cache_url", "device_cache_mib", "host_cache_mib", "disk_cache_mib"),
    *("keep_uploads", "image_ttl_s", "max_image_megapixels", "max_prompts"),
    *("max_video_frames", "video_cache_mib", "max_tracks", "track_memory_mib"),
    *("max_waiting_images", "max_waiting_prompts", "batch_images", "batch_prompts"),
}
"""Settings that a Front does not use whose Devices others have started. By the rate of pictures it paces what it
embeds ahead for Label Studio."""


class ClusterError(Exception):
    """The devices cannot be started. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The devices to start."""

    cpus: int = 0
    """Devices that are a part of the CPUs."""
    gpus: tuple[str, ...] = ()
    """Numbers of GPUs; none, and no CPUs: all that there are."""

    @classmethod
    def of(cls, text: str) -> "Chosen":
        """Parse SAM2_DEVICES, which setting_checks.py has checked."""
        if text == "all":
            return cls()
        if text.startswith("cpu:"):
            return cls(cpus=int(text.removeprefix("cpu:")))
        return cls(gpus=tuple(text.split(",")))

    @property
    def on_gpus(self) -> bool:
        """Whether the devices are GPUs."""
        return not self.cpus


def settings_of_each(settings: Settings, *, count: int, on_gpus: bool, cache_dir: str) -> dict[str, Any]:
    """Return the settings of each of `count` devices: what the machine has is divided, unless a setting says more.

    Only what is set, because the rest comes from the same environment.
    """
    given = {name: getattr(settings, name) for name in settings.model_fields_set - OF_THE_FRONT}
    given |= dict.fromkeys(SECRETS, "")
    given["cache_dir"] = cache_dir
    given.setdefault("workers", max(2, whole_cpus() // count))
    if not settings.register_url.get_secret_value():  # with it, all count together
        # A client's pictures are spread evenly.
        given["rate_pictures_per_minute"] = settings.rate_pictures_per_minute / count
    share_mib = max(1, memory_limit_bytes() // AUTO_SHARE // count // 2**20)
    if settings.host_cache_mib == "auto":
        given["host_cache_mib"] = share_mib
    if on_gpus:
        # Each sees its own GPU alone, which is number 0. If torch cannot use it, the device says so and ends, where
        # "auto" would take the CPUs.
        given["device"] = GPU if settings.device == "auto" else settings.device.partition(":")[0]
        return given
    given["device"] = "cpu"
    if settings.device_cache_mib == "auto":
        given["device_cache_mib"] = share_mib
    if "track_memory_mib" not in settings.model_fields_set:
        given["track_memory_mib"] = max(1, settings.track_memory_mib // count)
    if not settings.threads:
        given["threads"] = max(1, whole_cpus() // count)
    return given

"""What can go wrong with a model: with its weights, and with the memory of its device.

Does not know about requests; those have their own errors in the service.
"""


class CheckpointError(Exception):
    """A file cannot serve as the weights of the model. The message says why and what to do."""


class WeightsUnavailable(CheckpointError):
    """Weights are neither in their folder nor to be had. The message names every way to go on."""


class ExportError(Exception):
    """The decoder cannot be exported. The message says why and what to do."""


class TrackError(Exception):
    """A track cannot do what it is asked for as things stand. The message says why and what to do."""


class DeviceOutOfMemory(Exception):
    """A batch did not fit into the memory of the device; a smaller one may."""


class NoFreeSlot(DeviceOutOfMemory):
    """Every place for an embedding in device memory is held. The message says how many there are."""


class DeviceLost(Exception):
    """The device answers nothing any more, as after a memory fault: only a new process can use it again."""

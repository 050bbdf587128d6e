"""Registry → model in memory."""

from enclip.models.checkpoint import load_checkpoint
from enclip.models.clip import ClipModel
from enclip.models.device import resolve_device
from enclip.recipes import Device
from enclip.registry import Registry


def load_member(registry: Registry, source: str, *, device: Device = "auto") -> ClipModel:
    """The model behind `models:/m-…`, in eval mode, on the device. Raises WeightsError, DeviceError."""
    return load_checkpoint(registry.fetch_epoch(source), device=resolve_device(device))

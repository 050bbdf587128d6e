"""Registered epoch → member of an ensemble, and its model in memory."""

from enclip.models.checkpoint import load_checkpoint
from enclip.models.clip import ClipModel
from enclip.models.device import resolve_device
from enclip.recipes import Device
from enclip.records import EpochVersion
from enclip.registry import Registry
from enclip.release import Member


def load_member(registry: Registry, source: str, *, device: Device = "auto") -> ClipModel:
    """The model behind `models:/m-…`, in eval mode, on the device. Raises WeightsError, DeviceError."""
    return load_checkpoint(registry.fetch_epoch(source), device=resolve_device(device))


def member_of(epoch: EpochVersion, pixel_side: int) -> Member:
    """A registered checkpoint as the only member of an ensemble."""
    return Member(
        version=epoch.version,
        source=epoch.source,
        instance=epoch.instance,
        epoch=epoch.epoch,
        weight=1.0,
        weights_sha256=epoch.weights_sha256,
        init_id=epoch.init_id,
        dim=epoch.dim,
        pixel_side=pixel_side,
    )

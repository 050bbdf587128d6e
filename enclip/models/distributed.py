"""Several processes that train one model: what torchrun starts, and what they tell each other."""

import ctypes
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from enclip.errors import TrainingError
from enclip.models.device import resolve_device
from enclip.recipes import Device

T = TypeVar("T")

# The first process validates, writes and registers while the others wait for it.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of the processes this is."""

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and registers."""
        return self.rank == 0


def current() -> Ranks:
    """This process among those that joined; alone where none did."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextmanager
def joined(environment: Mapping[str, str], device: Device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started, if it did, for the length of the block.

    Args:
        environment: `os.environ` of an entry point; torchrun sets RANK, LOCAL_RANK, WORLD_SIZE,
            MASTER_ADDR and MASTER_PORT in it.

    Raises:
        DeviceError: as `resolve_device`. TrainingError: a torchrun variable is missing.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    if world_size <= 1:
        yield Ranks(), resolve_device(device)
        return
    try:
        rank, local_rank = int(environment["RANK"]), int(environment["LOCAL_RANK"])
        address = f"tcp://{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    except KeyError as error:
        raise TrainingError(
            f"WORLD_SIZE is {world_size}, but {error.args[0]} is not set.", remedy="Start the training by torchrun."
        ) from error
    here = resolve_device(device, local_rank=local_rank)
    die_with_parent()
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if "TORCHELASTIC_RUN_ID" in environment:
        address = "env://"  # torchrun's agent holds the store that tcp:// would open a second time
    dist.init_process_group(
        "nccl" if here.type == "cuda" else "gloo",
        init_method=address,
        rank=rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    try:
        yield Ranks(rank, world_size), here
    finally:
        dist.destroy_process_group()


def from_first(value: T | None) -> T:
    """The first process's value, in every process; waits for it. Others pass None."""
    if current().world_size == 1:
        assert value is not None
        return value
    box: list[T | None] = [value]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def together() -> None:
    """Wait until every process has come here."""
    if current().world_size > 1:
        dist.barrier()


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent is gone: a killed torchrun orphans its workers."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""Which device computes, and what it is doing."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from enclip.errors import DeviceError
from enclip.recipes import Device

log = logging.getLogger(__name__)


def after_training(device: Device) -> Device:
    """What a run's later steps ask for: they may be on another machine than its training, without its GPU."""
    return "auto" if device == "cuda" else device


def resolve_device(device: Device, *, local_rank: int = 0) -> torch.device:
    """The torch device of `auto`, `cuda` or `cpu`; `auto` takes CUDA where there is one.

    Args:
        local_rank: which GPU of this machine, for a process that torchrun started.

    Raises:
        DeviceError: CUDA was asked for, and torch sees none, or fewer GPUs than processes.
    """
    if device == "cpu":
        return torch.device("cpu")
    if device not in ("auto", "cuda"):
        raise DeviceError(f"There is no device {device!r}.", remedy="Use auto, cuda or cpu.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        if device == "auto":
            return torch.device("cpu")
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise DeviceError(
            f"device=cuda, but torch {torch.__version__} (built with {built}) sees no CUDA device.",
            remedy="Check `nvidia-smi` and the driver, or use device=auto or device=cpu.",
        )
    if local_rank >= count:
        raise DeviceError(
            f"Process {local_rank} of this machine has no GPU of its own: torch sees {count}.",
            remedy=f"Start torchrun with --nproc-per-node={count} at most.",
        )
    return torch.device("cuda", local_rank)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where it pays: bfloat16 on GPUs and CPUs with instructions for it, else plain float32.

    With AVX-512's alone a training step took 0.52 to 0.61 of float32's time, with AMX 0.55.

    bfloat16 has the exponent of float32, so no gradient scaler is needed.
    """
    if device.type == "cuda":
        pays = torch.cuda.is_bf16_supported()
    else:
        able = torch.cpu.get_capabilities()
        pays = bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16) if pays else nullcontext()


def short_attention(device: torch.device) -> AbstractContextManager[object]:
    """Attention over captions: torch's flash kernel for CPUs takes 1.7 times as long there as the plain one."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or this machine, could not give the memory that was asked for."""
    # On the CPU torch raises a plain RuntimeError, which only its text tells from others.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def gpu_figures(device: torch.device) -> dict[str, float | str]:
    """Name, memory and, where NVML answers, utilisation of a CUDA device; empty for the CPU.

    Memory is in MiB, `gpu_peak_memory_mb` since the process began, utilisation in percent, power in W.
    """
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    figures: dict[str, float | str] = {
        "gpu_name": properties.name,
        "gpu_memory_total_mb": total / 2**20,
        "gpu_memory_used_mb": (total - free) / 2**20,
        "gpu_peak_memory_mb": torch.cuda.max_memory_allocated(device) / 2**20,
    }
    try:
        figures["gpu_utilization_percent"] = float(torch.cuda.utilization(device))
        figures["gpu_power_w"] = torch.cuda.power_draw(device) / 1000
    except (RuntimeError, ImportError, OSError) as error:  # no NVML binding, or a driver that does not tell
        log.debug("No utilisation from NVML: %s", error)
    return figures

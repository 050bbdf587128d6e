import pytest
import torch

from enclip.errors import DeviceError
from enclip.models.device import gpu_figures, resolve_device

has_gpu = torch.cuda.is_available()


def test_cpu_is_the_cpu():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(has_gpu, reason="this machine has a GPU")
def test_auto_falls_back_to_the_cpu_and_cuda_fails_with_a_remedy():
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"sees no CUDA device.*nvidia-smi"):
        resolve_device("cuda")


@pytest.mark.skipif(not has_gpu, reason="this machine has no GPU")
def test_auto_takes_the_gpu_and_its_figures_are_told():
    device = resolve_device("auto")
    assert device.type == "cuda"
    torch.zeros(1, device=device)
    figures = gpu_figures(device)
    assert figures["gpu_name"]
    assert float(figures["gpu_memory_total_mb"]) > 0
    with pytest.raises(DeviceError, match="no GPU of its own"):
        resolve_device("cuda", local_rank=999)


def test_another_name_is_refused():
    with pytest.raises(DeviceError, match="tpu"):
        resolve_device("tpu")  # type: ignore[arg-type]


def test_the_cpu_has_no_gpu_figures():
    assert gpu_figures(torch.device("cpu")) == {}

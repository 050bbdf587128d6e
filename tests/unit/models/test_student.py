"""One text tower that answers for two, on a CLIP of a few thousand weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from enclip.errors import TrainingError, WeightsError
from enclip.models.clip import ClipEncoder
from enclip.models.student import CARD, WEIGHTS, OnText, TextStudent, agreement, distil
from enclip.records import Floats

from .small_models import COLOURS, CPU, TYPES, small_clip

TEXTS = [f"{colour} {kind} {number}" for colour in COLOURS for kind in TYPES for number in range(12)]
WEIGHTS_OF_MEMBERS = [0.75, 0.25]


def teachers() -> list[Floats]:
    return [ClipEncoder(small_clip(seed)).encode_texts(TEXTS) for seed in (0, 1)]


def taught(
    folder: Path, *, epochs: int, weights: list[float] = WEIGHTS_OF_MEMBERS, on_text: OnText | None = None
) -> TextStudent:
    return distil(
        small_clip(0),
        TEXTS,
        teachers(),
        own=0,
        weights=weights,
        epochs=epochs,
        seed=3,
        device=CPU,
        state_dir=folder,
        on_text=on_text,
    )


def test_it_starts_as_its_own_tower_and_learns_the_other(tmp_path: Path) -> None:
    before = agreement(taught(tmp_path / "none", epochs=0), TEXTS, teachers())
    after = agreement(taught(tmp_path / "taught", epochs=60), TEXTS, teachers())
    assert before[0] == pytest.approx(1.0, abs=1e-5)
    assert after[1] > before[1] + 0.01
    assert min(after) > 0.97


def test_its_blocks_are_the_members_in_order_and_of_unit_norm(tmp_path: Path) -> None:
    blocks = taught(tmp_path, epochs=1).encode_texts(["Red Bars", "something else"])
    assert [block.shape for block in blocks] == [(2, 16), (2, 16)]
    for block in blocks:
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1, atol=1e-5)


def test_a_distillation_that_was_cut_off_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(step: int, steps: int, loss: float) -> None:
        if step == 3:  # one step an epoch: two epochs are done
            raise Cut

    whole = taught(tmp_path / "whole", epochs=4)
    with pytest.raises(Cut):
        taught(tmp_path / "cut", epochs=4, on_text=cut)
    steps: list[int] = []
    resumed = taught(tmp_path / "cut", epochs=4, on_text=lambda step, steps_in_all, loss: steps.append(step))
    assert steps == [3, 4]
    torch.testing.assert_close(resumed.head_DE, whole.head_DE, rtol=0, atol=0)
    for ours, theirs in zip(resumed.encode_texts(TEXTS), whole.encode_texts(TEXTS), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_distillation_does_not_go_on_from_this_one(tmp_path: Path) -> None:
    taught(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="another recipe"):
        taught(tmp_path, epochs=1, weights=[0.5, 0.5])


def test_it_is_the_same_after_its_files(tmp_path: Path) -> None:
    student = taught(tmp_path / "state", epochs=2)
    student.save(tmp_path / "saved")
    loaded = TextStudent.load(tmp_path / "saved", device=CPU)
    assert loaded.dims == (16, 16)
    for ours, theirs in zip(loaded.encode_texts(TEXTS), student.encode_texts(TEXTS), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_it_does_not_store_the_image_tower(tmp_path: Path) -> None:
    from safetensors import safe_open

    taught(tmp_path / "state", epochs=1).save(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / WEIGHTS, framework="pt") as file:
        assert not [name for name in file.keys() if name.startswith("visual")]  # noqa: SIM118  # no mapping


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
@pytest.mark.parametrize("content", [None, b"", b"not this"])
def test_a_damaged_student_is_one_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    taught(tmp_path / "state", epochs=1).save(tmp_path / "saved")
    (tmp_path / "saved" / name).unlink()
    if content is not None:
        (tmp_path / "saved" / name).write_bytes(content)
    with pytest.raises(WeightsError, match="student"):
        TextStudent.load(tmp_path / "saved", device=CPU)

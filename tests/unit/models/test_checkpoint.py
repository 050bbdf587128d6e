import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from enclip.errors import WeightsError
from enclip.models.checkpoint import CARD, WEIGHTS, load_checkpoint, read_card, save_checkpoint
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.release import file_sha256

from .small_models import CPU, small_clip


def test_what_is_saved_comes_back(tmp_path: Path, clip: ClipModel, pixels: NDArray[np.uint8]):
    sha256 = save_checkpoint(tmp_path, replace(clip, epochs_trained=4), pixel_side=48)
    again = load_checkpoint(tmp_path, device=CPU)
    np.testing.assert_allclose(
        ClipEncoder(again).encode_images(pixels), ClipEncoder(clip).encode_images(pixels), atol=1e-6
    )
    assert (again.init_id, again.from_scratch, again.epochs_trained) == (clip.init_id, True, 4)
    card = read_card(tmp_path)
    assert (card.pixel_side, card.dim, card.weights_sha256) == (48, 16, sha256)
    assert file_sha256(tmp_path / WEIGHTS) == sha256


def test_equal_weights_have_equal_hashes(tmp_path: Path):
    hashes = [
        save_checkpoint(tmp_path / str(row), small_clip(seed), pixel_side=16) for row, seed in enumerate((0, 0, 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_checkpoint_is_two_files_and_can_be_written_again(tmp_path: Path, clip: ClipModel):
    for _ in range(2):
        save_checkpoint(tmp_path, clip, pixel_side=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CARD, WEIGHTS])


def test_one_flipped_byte_is_found(tmp_path: Path, clip: ClipModel):
    save_checkpoint(tmp_path, clip, pixel_side=16)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(tmp_path, device=CPU)


def test_weights_that_are_no_safetensors_are_refused_even_if_their_hash_fits(tmp_path: Path, clip: ClipModel):
    save_checkpoint(tmp_path, clip, pixel_side=16)
    (tmp_path / WEIGHTS).write_bytes(b"\x80\x04 a pickle, say")
    _edit_card(tmp_path, weights_sha256=file_sha256(tmp_path / WEIGHTS))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_checkpoint(tmp_path, device=CPU)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, clip: ClipModel):
    save_checkpoint(tmp_path, clip, pixel_side=16)
    card = json.loads((tmp_path / CARD).read_text())
    card["architecture"]["model_cfg"]["embed_dim"] = 24
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="does not fit"):
        load_checkpoint(tmp_path, device=CPU)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, clip: ClipModel, name: str):
    save_checkpoint(tmp_path, clip, pixel_side=16)
    (tmp_path / name).unlink()
    with pytest.raises(WeightsError, match="No such file"):
        load_checkpoint(tmp_path, device=CPU)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"format": 9}', b"\xff\xfe"])
def test_a_card_that_is_none_is_refused(tmp_path: Path, clip: ClipModel, content: bytes):
    save_checkpoint(tmp_path, clip, pixel_side=16)
    (tmp_path / CARD).write_bytes(content)
    with pytest.raises(WeightsError, match="not a checkpoint's card"):
        load_checkpoint(tmp_path, device=CPU)


def _edit_card(folder: Path, **values: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **values}))

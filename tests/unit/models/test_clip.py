from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from enclip.models.clip import ClipEncoder, ClipModel, embed_pixels
from enclip.models.device import autocast
from enclip.models.pixels import prepare

from .small_models import CPU

BFLOAT16 = 2**-7  # images are embedded in it where the processor has units for it
TEXTS = ["red bars", "", "Ünïcode ✓", "word " * 200]


def test_embeddings_are_float32_of_unit_norm(clip: ClipModel, pixels: NDArray[np.uint8]):
    encoder = ClipEncoder(clip)
    for embedding in (encoder.encode_texts(TEXTS), encoder.encode_images(pixels)):
        assert embedding.dtype == np.float32
        assert embedding.shape[1] == encoder.dim == 16
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)


def test_the_encoder_computes_what_the_towers_do(clip: ClipModel, pixels: NDArray[np.uint8]):
    with torch.no_grad():
        with autocast(CPU):
            image_BD = clip.module.encode_image(
                prepare(torch.from_numpy(pixels), clip.architecture.preprocessing), normalize=True
            ).float()
        text_BD = clip.module.encode_text(clip.tokenize(TEXTS), normalize=True)
    encoder = ClipEncoder(clip)
    np.testing.assert_allclose(encoder.encode_images(pixels), image_BD.numpy(), atol=BFLOAT16)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), text_BD.numpy(), atol=1e-6)


def test_the_batch_size_changes_nothing(clip: ClipModel, pixels: NDArray[np.uint8]):
    small, large = ClipEncoder(clip, batch=2), ClipEncoder(clip, batch=100)
    np.testing.assert_allclose(small.encode_images(pixels), large.encode_images(pixels), atol=1e-6)
    np.testing.assert_allclose(small.encode_texts(TEXTS), large.encode_texts(TEXTS), atol=1e-6)


def test_some_rows_are_embedded_as_they_are_in_all(clip: ClipModel, pixels: NDArray[np.uint8]):
    rows = np.array([4, 0, 2])
    found = embed_pixels(clip, pixels, clip.device, rows=rows, batch=2)
    np.testing.assert_allclose(found, embed_pixels(clip, pixels, clip.device)[rows], atol=1e-5)


def test_nothing_in_gives_nothing_out(clip: ClipModel):
    encoder = ClipEncoder(clip)
    assert encoder.encode_texts([]).shape == (0, 16)
    assert encoder.encode_images(np.zeros((0, 8, 8, 3), dtype=np.uint8)).shape == (0, 16)


def test_a_read_only_memory_map_is_embedded_with_progress(clip: ClipModel, pixels: NDArray[np.uint8], tmp_path: Path):
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    seen: list[tuple[int, int]] = []
    embedding = embed_pixels(clip, mapped, CPU, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    np.testing.assert_allclose(embedding, ClipEncoder(clip).encode_images(pixels), atol=1e-6)


def test_threads_may_share_an_encoder(clip: ClipModel, pixels: NDArray[np.uint8]):
    encoder = ClipEncoder(clip)
    texts, images = encoder.encode_texts(TEXTS), encoder.encode_images(pixels)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: (encoder.encode_texts(TEXTS), encoder.encode_images(pixels)), range(8)))
    for text, image in answers:
        np.testing.assert_allclose(text, texts, atol=1e-6)
        np.testing.assert_allclose(image, images, atol=1e-6)

"""Product names → embeddings by a member's text tower: the only text of a product that a gallery holds."""

import numpy as np
from numpy.typing import NDArray

from enclip.pipeline.known import Known
from enclip.records import Encoder, Products
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import named

BATCH = 10_000  # names tokenised at once


def encode_names(encoder: Encoder, products: Products, known: Known | None = None) -> tuple[NDArray[np.float16], int]:
    """`embedding_ND` float16 of the products' names, zero without one; and how many had to be computed.

    A name that several products share, or that is known, is not encoded again.
    """
    vectors = dict(known or {})
    missing = sorted({str(name) for name in products.name[named(products)]} - vectors.keys())
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        vectors |= zip(batch, encoder.encode_texts(batch).astype(np.float16), strict=True)
    nothing = np.zeros(encoder.dim, np.float16)
    name_ND = [
        vectors[name] if has_name else nothing for name, has_name in zip(products.name, named(products), strict=True)
    ]
    return np.stack(name_ND) if name_ND else np.zeros((0, encoder.dim), np.float16), len(missing)


def known_names(searcher: Searcher, member: int) -> dict[str, NDArray[np.float16]]:
    """Name → embedding by a member, of a searcher that holds names; else nothing."""
    if not searcher.has_names:
        return {}
    is_named = named(searcher.products)
    return dict(zip(searcher.products.name[is_named], searcher.name_block(member)[is_named], strict=True))

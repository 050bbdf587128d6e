"""Half to single precision: every finite number there is."""

import numpy as np

from enclip.retrieval.half import single


def test_every_finite_half_is_the_same_number_in_single_precision():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(single(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_rows_that_lie_apart_in_memory_convert_too():
    half_ND = np.random.default_rng(0).standard_normal((7, 30)).astype(np.float16)
    np.testing.assert_array_equal(single(half_ND[::2, 5:20]), half_ND[::2, 5:20].astype(np.float32))

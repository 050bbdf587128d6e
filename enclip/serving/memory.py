"""What the C library has free and has not given back to the system."""

import ctypes


def give_back_memory() -> None:
    """Return it; does nothing where the C library is not glibc.

    A release that is taken out of service leaves holes in the heaps of all threads. Without this the service over the
    public catalog had 1,325 to 1,360 MB after 10 to 60 switches, with it 1,200 MB after each.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

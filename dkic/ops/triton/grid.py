"""Integer functions for the sizes of launches. Triton's, which also run in kernels, take several microseconds on the host."""


def cdiv(n: int, block: int) -> int:
    """n / block, rounded up."""
    return -(-n // block)


def next_power_of_2(n: int) -> int:
    """The least power of 2 that is at least n; n: at least 1."""
    return 1 << (n - 1).bit_length()

"""Sizes that programs are compiled for: numbers are rounded up, so that few shapes occur."""


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest power of two that is `count` or more, and `least` or more (a power of two)."""
    return max(least, 1 << max(0, count - 1).bit_length())


def multiple(count: int, step: int) -> int:
    """The smallest multiple of `step` that is `count` or more."""
    return -(-count // step) * step

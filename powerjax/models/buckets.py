"""Sizes that programs are compiled for, rounded up so that few shapes occur."""


def power_of_two(count: int, least: int = 1) -> int:
    """Returns the smallest power of two that is at least `count` and at least `least`.

    least: a power of two.
    """
    return max(least, 1 << max(0, count - 1).bit_length())


def multiple(count: int, step: int) -> int:
    """Returns the smallest multiple of `step` that is at least `count`."""
    return -(-count // step) * step

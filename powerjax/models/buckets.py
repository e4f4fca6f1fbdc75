"""Sizes that programs are compiled for, rounded up so that few shapes occur."""


def power_of_two(count: int, least: int = 1) -> int:
    """Returns the smallest power of two that is at least `count` and at least `least`.

    least: a power of two.
    """
    return max(least, 1 << max(0, count - 1).bit_length())


def half_octave(count: int, least: int) -> int:
    """Returns the smallest of least * (1, 1.5, 2, 3, 4, 6, 8, ...) that is at least `count`.

    least: an even number. At most a third of a size is padding, where powers of two waste a half.
    """
    size = least
    while size < count:
        if size + size // 2 >= count:
            return size + size // 2
        size *= 2
    return size


def multiple(count: int, step: int) -> int:
    """Returns the smallest multiple of `step` that is at least `count`."""
    return -(-count // step) * step

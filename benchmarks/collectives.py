"""Collective operations in the text of a compiled program."""

import collections
import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    kind: "all-reduce" and so on.
    shapes: those of its results on one device, such as "bf16[1,1024,3584]".
    """

    kind: str
    shapes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        return sum(_shape_bytes(shape) for shape in self.shapes)


_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_OPERATION = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(.*channel_id=(\d+)")
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


def find(text: str) -> list[Collective]:
    """Returns the collectives of a compiled program's text."""
    by_channel = {}
    for line in text.splitlines():
        match = _OPERATION.search(line)
        if match and match[4] not in by_channel:
            shapes = [f"{dtype}[{sizes}]" for dtype, sizes in _SHAPE.findall(match[1])]
            if match[3] and match[2] != "all-reduce":  # the shape is (operands, results, flags)
                shapes = [s for s in shapes if s != "u32[]"]
                shapes = shapes[len(shapes) // 2 :]
            by_channel[match[4]] = Collective(match[2], tuple(shapes))
    return list(by_channel.values())


def summarize(collectives: list[Collective]) -> dict[str, tuple[int, int]]:
    """Returns, by kind, the number of operations and the bytes of their results on one device."""
    count, size = collections.Counter(), collections.Counter()
    for item in collectives:
        count[item.kind] += 1
        size[item.kind] += item.num_bytes
    return {kind: (count[kind], size[kind]) for kind in sorted(count)}


def _shape_bytes(shape: str) -> int:
    dtype, sizes = _SHAPE.fullmatch(shape).groups()
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(map(int, filter(None, sizes.split(",")))) * bits // 8

"""What a chip can hold and do: the numbers that plans and rooflines are made from.

Sources. NVIDIA: the data sheets of A100 (r4), H100 SXM (dense figures, half of the sparse ones
printed) and H200 SXM; memory is what the driver reports for the card (nvidia-smi), a little less
than its name says. TPU: the chips' pages in the Cloud TPU documentation ("System architecture");
memory is what the XLA compiler leaves to a program, as its out-of-memory message gives it (libtpu
0.0.42): the full 16, 32 or 95 GiB less a reserve.
"""

import dataclasses

_GIB, _MIB = 2**30, 2**20


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them (a TPU v4 or v5p chip with its two cores is one device).

    memory_bytes: device memory that programs may use.
    bf16_flops: FLOP/s of dense bfloat16 matrix products, at the peak.
    bandwidth: bytes/s between chip and its device memory, at the peak.
    """

    name: str
    memory_bytes: int
    bf16_flops: float
    bandwidth: float

    def roofline_s(self, flops: float, num_bytes: float) -> float:
        """Seconds below which no program of so many operations and bytes moved can run."""
        return max(flops / self.bf16_flops, num_bytes / self.bandwidth)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("a100-40gb", 40_960 * _MIB, 312e12, 1.555e12),
        Chip("a100-80gb", 81_920 * _MIB, 312e12, 2.039e12),
        Chip("h100-80gb", 81_559 * _MIB, 989e12, 3.35e12),
        Chip("h200", 143_771 * _MIB, 989e12, 4.8e12),
        Chip("v4", int(30.75 * _GIB), 275e12, 1.228e12),
        Chip("v5e", int(15.75 * _GIB), 197e12, 0.819e12),
        Chip("v5p", int(95.74 * _GIB), 459e12, 2.765e12),
        Chip("v6e", int(31.25 * _GIB), 918e12, 1.638e12),
    )
}

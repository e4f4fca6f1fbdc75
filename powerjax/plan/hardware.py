"""What a chip can hold and do: the numbers that plans and rooflines are made from.

Sources. NVIDIA: the data sheets of A100 (r4), H100 SXM (dense figures, half of the sparse ones
printed) and H200 SXM; memory is what the driver reports for the card (nvidia-smi), a little less
than its name says. TPU: the chips' pages in the Cloud TPU documentation ("System architecture");
memory is what the XLA compiler leaves to a program, as its out-of-memory message gives it (libtpu
0.0.42): the full 16, 32 or 95 GiB less a reserve.
"""

import dataclasses
import re

_GIB, _MIB = 2**30, 2**20


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them (a TPU v4 or v5p chip with its two cores is one device).

    Attributes:
      name: the chip's name, as `parse` reads it: "a100-80gb", or "v5e" without "tpu-".
      memory_bytes: bytes of device memory that programs may use.
      bf16_flops: FLOP/s of dense bfloat16 matrix products, at the peak.
      bandwidth: bytes/s between the chip and its device memory, at the peak.
      host_devices: devices per host in the usual machines and slices.
    """

    name: str
    memory_bytes: int
    bf16_flops: float
    bandwidth: float
    host_devices: int = 8

    def roofline_s(self, flops: float, num_bytes: float) -> float:
        """Returns the fewest seconds that this chip can take.

        flops: operations. num_bytes: bytes moved between the chip and its memory.
        """
        return max(flops / self.bf16_flops, num_bytes / self.bandwidth)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("a100-40gb", 40_960 * _MIB, 312e12, 1.555e12),
        Chip("a100-80gb", 81_920 * _MIB, 312e12, 2.039e12),
        Chip("h100-80gb", 81_559 * _MIB, 989e12, 3.35e12),
        Chip("h200", 143_771 * _MIB, 989e12, 4.8e12),
        Chip("v4", int(30.75 * _GIB), 275e12, 1.228e12, 4),
        Chip("v5e", int(15.75 * _GIB), 197e12, 0.819e12),
        Chip("v5p", int(95.74 * _GIB), 459e12, 2.765e12, 4),
        Chip("v6e", int(31.25 * _GIB), 918e12, 1.638e12),
    )
}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A number of chips of one kind: `a100-40gb:8`."""

    chip: Chip
    count: int

    @property
    def is_tpu(self) -> bool:
        """Whether these are TPUs; otherwise they are GPUs."""
        return self.chip.name.startswith("v")

    @property
    def host_devices(self) -> int:
        """Devices per host. A slice of more than 8 v5e or v6e chips has hosts of 4."""
        usual = self.chip.host_devices
        if self.is_tpu and self.count > usual:
            usual = min(usual, 4)
        return min(usual, self.count)

    @property
    def num_hosts(self) -> int:
        """Hosts that the devices are in."""
        return self.count // self.host_devices

    @property
    def name(self) -> str:
        """The text that `parse` reads as this hardware."""
        return f"{'tpu-' if self.is_tpu else ''}{self.chip.name}:{self.count}"


def parse(text: str) -> Hardware:
    """Returns the hardware that "a100-40gb:8" or "tpu-v5e:8" names: a chip and how many of it.

    Raises ValueError for an unknown chip, listing those known, and for a number of chips that is
    not one of whole hosts.
    """
    match = re.fullmatch(r"(?:tpu-)?([a-z0-9-]+?)(?::(\d+))?", text.strip().lower())
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None:
        known = ", ".join(f"tpu-{name}" if name[0] == "v" else name for name in CHIPS)
        raise ValueError(f"hardware {text!r}: give CHIP:COUNT, the chip one of {known}")
    hardware = Hardware(chip, int(match[2] or 1))
    if hardware.count < 1 or hardware.count % hardware.host_devices:
        raise ValueError(
            f"hardware {text!r}: {hardware.count} devices are no whole number of hosts of"
            f" {hardware.host_devices}"
        )
    return hardware

"""What benchmarks print: the machine, then a line for each measurement."""

import os

import jax


class Lines:
    """Prints measurements one below the other.

    what_width, measured_width: characters of the first two columns.
    """

    def __init__(self, what_width: int, measured_width: int):
        self._widths = what_width, measured_width

    def begin(self) -> None:
        """Prints the machine, its load, and the names of the columns."""
        print(
            f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, load "
            f"{os.getloadavg()[0]:.1f} before the start"
        )
        self.add("what", "measured", "against")

    def add(self, what: str, measured: str, against: str = "") -> None:
        """Prints a measurement, and what it is to be compared with."""
        what_width, measured_width = self._widths
        print(f"{what:{what_width}s} {measured:>{measured_width}s}  {against}", flush=True)

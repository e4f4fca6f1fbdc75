"""What one program may use."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
      wall_s: seconds from the start of the program to the end of its tests.
      cpu_s: processor seconds, for each of its processes.
      memory_bytes: address space, for each of its processes.
      num_processes: processes and threads at a time.
      file_bytes: the size of each file that it writes.
      tmp_bytes: the size of all files in /tmp together.
      output_bytes: the length of its standard output and error together.
    """

    wall_s: float = 30.0
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    num_processes: int = 8
    file_bytes: int = 16 << 20
    tmp_bytes: int = 64 << 20
    output_bytes: int = 1 << 20

"""The parts of benchmarks.gpu, the most important first."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the measurement: a function of `benchmarks.accelerator.MODULE`.

    function: its name; it takes a rows.Report and whether to use toy shapes.
    limit_s: seconds after which its process is killed.
    on_host: whether JAX gets the CPU alone, because torch uses the accelerator.
    """

    module: str
    function: str
    limit_s: float
    on_host: bool = False


PARTS = {
    "card": Part("card", "measure", 40),
    "decode": Part("decode", "measure", 210),
    "generate": Part("torch_side", "generate", 60, on_host=True),
    "chains": Part("chains", "measure", 90),
    "chains_torch": Part("torch_side", "chains", 80, on_host=True),
    "training": Part("training", "measure", 160),
    "training_torch": Part("torch_side", "training", 60, on_host=True),
    "top_k": Part("draw", "measure", 30),
    "start": Part("chains", "warm_start", 45),
    "memory": Part("memory", "measure", 30),
}

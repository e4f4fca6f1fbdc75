"""The parts of benchmarks.gpu, the most important first."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the measurement: a function of `benchmarks.accelerator.MODULE`.

    function: its name; it takes a rows.Report and whether to use toy shapes.
    limit_s: seconds after which its process is killed.
    on_host: whether JAX gets the CPU alone, because torch uses the accelerator.
    xla_flags: flags of XLA for this part's process.
    """

    module: str
    function: str
    limit_s: float
    on_host: bool = False
    xla_flags: str = ""


PARTS = {
    "card": Part("card", "measure", 40),
    "decode": Part("decode", "measure", 210),
    "generate": Part("torch_side", "generate", 60, on_host=True),
    "chains": Part("chains", "measure", 90),
    "chains_torch": Part("torch_side", "chains", 80, on_host=True),
    # XLA tries many tiles of its own for each product before the first step; without them it
    # takes cuBLAS's.
    "training_cublas": Part(
        "training", "measure_cublas", 100, xla_flags="--xla_gpu_enable_triton_gemm=false"
    ),
    "training_torch": Part("torch_side", "training", 60, on_host=True),
    "training": Part("training", "measure", 150),
    "top_k": Part("draw", "measure", 30),
    "start": Part("chains", "warm_start", 45),
    "memory": Part("memory", "measure", 30),
}

"""Start-up over several processes, the device mesh, and where each parameter lies on it.

Axes: "data" carries rows (chains, examples), "model" splits heads, feed-forward and vocabulary.
"""

import functools
import importlib.util
import logging
import math
import os
import re
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax import rendezvous

log = logging.getLogger(__name__)

# First match wins. Column-parallel into a block, row-parallel out of it: two all-reduces a layer.
PARAM_SPECS = (
    (r"embed_tokens/embedding$", P("model", None)),
    (r"lm_head/kernel$", P(None, "model")),
    (r"self_attn/[qkv]_proj/kernel$", P(None, "model")),
    (r"self_attn/[qkv]_proj/bias$", P("model")),
    (r"self_attn/o_proj/kernel$", P("model", None)),
    (r"mlp/(gate|up)_proj/kernel$", P(None, "model")),
    (r"mlp/down_proj/kernel$", P("model", None)),
    (r"norm/scale$", P()),
    (r"_layernorm/scale$", P()),
)


class Place(NamedTuple):
    """The place of this process in a run of several."""

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: list[int] | None = None  # None: all of the host's


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: float = 300,
    must_agree: Mapping[str, object] | None = None,
) -> None:
    """Joins the processes of a run; to be called before anything that touches a device.

    Without arguments the run is found in the environment: Slurm (srun with several tasks), Open
    MPI, Cloud TPU pods, GKE, Kubernetes (an indexed Job or a JobSet, with the `kubernetes`
    package); where there is none, nothing happens.

    Args:
      coordinator: "host:port" of process 0, reachable from every host.
      num_processes, process_id: how many there are, and which this one is, from 0.
      timeout_s: how long to wait for the others.
      must_agree: what has to be equal on all processes beside the version of JAX, such as flags.

    Raises:
      ValueError: arguments that do not fit together; processes that differ.
      OSError: no coordinator, or a process is missing, after timeout_s.
      RuntimeError: JAX's, after a device was touched.
    """
    place = find(coordinator, num_processes, process_id, timeout_s=timeout_s)
    if place is None:
        return
    meet(place, timeout_s=timeout_s, must_agree=must_agree)
    jax.distributed.initialize(
        *place[:3],
        local_device_ids=place.local_devices,
        cluster_detection_method="deactivate",  # it would hide devices, and was asked above
        initialization_timeout=max(math.ceil(timeout_s), 30),  # all are there: seconds
    )


def find(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: float = 300,
) -> Place | None:
    """The place that the arguments of `start`, or the environment, give; None: it runs alone."""
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        run = _find_run(timeout_s)
        if run is None:
            return None
        place = Place(*run)
    elif None in given:
        raise ValueError(
            "coordinator, num_processes and process_id go together: give all three, or none on "
            "one machine, Slurm, Open MPI, a TPU pod or Kubernetes"
        )
    else:
        place = Place(*given)
    check_id(place.num_processes, place.process_id)
    return place


def check_id(num_processes: int, process_id: int) -> None:
    """Raises ValueError if there is no such process."""
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id {process_id} of num_processes {num_processes}: ids count from 0 to "
            "num_processes - 1"
        )


def meet(
    place: Place, *, timeout_s: float = 300, must_agree: Mapping[str, object] | None = None
) -> None:
    """Returns once all processes are there and agree; arguments and errors as for `start`.

    They are not connected: each runs on its own devices, and outlives the others.
    """
    facts = {"jax": jax.__version__} | {k: str(v) for k, v in (must_agree or {}).items()}
    rendezvous.meet(place.coordinator, place.num_processes, place.process_id, facts, timeout_s)


def take_devices(place: Place) -> None:
    """Of several processes on one host, each sees its own GPUs; before a device is touched."""
    if place.local_devices:
        ids = ",".join(map(str, place.local_devices))
        jax.config.update("jax_cuda_visible_devices", ids)
        jax.config.update("jax_rocm_visible_devices", ids)


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is at the barrier of this name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _find_run(timeout_s: float):
    """(coordinator, num_processes, process_id, local device ids) of the environment, or None.

    JAX's own detection, where there are several processes: asked on one machine, it can wait for
    processes that nobody starts, as in a Slurm allocation without srun.
    """
    env = os.environ
    in_slurm = int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in env
    in_kubernetes = "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env
    if in_kubernetes and not importlib.util.find_spec("kubernetes"):
        log.warning("other pods are not looked for: pip install kubernetes, or give --coordinator")
        in_kubernetes = False
    if not (
        in_slurm or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1 or in_kubernetes or is_tpu_pod()
    ):
        return None
    from jax._src import clusters  # jax.distributed has no public name for what it finds

    try:
        run = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            *(None,) * 5, initialization_timeout=math.ceil(timeout_s)
        )
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"cannot find this run's other processes ({why}): give coordinator, num_processes and "
            "process_id"
        ) from error
    if None in run[:3]:
        return None
    if in_slurm and env["SLURM_STEP_NUM_TASKS"] == env.get("SLURM_STEP_NUM_NODES"):
        return (*run[:3], None)  # one task a node has all its GPUs; JAX would take the first
    return run


def is_tpu_pod() -> bool:
    """Whether this is one of several hosts of Cloud TPU."""
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm or "tpu" not in (jax.config.jax_platforms or "tpu"):
        return False
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is None:
        hosts = _tpu_metadata("worker-network-endpoints")
    return "," in hosts or int(os.environ.get("MEGASCALE_NUM_SLICES") or 1) > 1


def _tpu_metadata(key: str) -> str:
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def make_mesh(model: int = 1, data: int | None = None, devices=None) -> Mesh:
    """A ("data", "model") mesh; data=None takes all the devices that are left.

    "model" is the inner axis: it stays within a process where it divides the process's devices.
    Axes are Auto: JAX's default, Explicit, fails in embedding lookups and row scatters.

    Raises ValueError if the numbers do not fit the devices, or leave out one of several processes'.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if data is None:
        data = count // model if model > 0 else 0
        if model < 1 or count % model:
            raise ValueError(
                f"a mesh of model {model} does not fit {count} devices: take a divisor of {count}, "
                "or give data as well"
            )
    several = len({device.process_index for device in devices}) > 1
    if data < 1 or model < 1 or data * model > count or (several and data * model < count):
        raise ValueError(
            f"a mesh of data {data} x model {model} does not fit {count} devices: their product "
            f"must be {count if several else f'at most {count}'}"
        )
    return jax.make_mesh(
        (data, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: data * model],
    )


def param_spec(path: str, shape: tuple[int, ...], config, mesh: Mesh, *, fsdp: bool = False) -> P:
    """The PartitionSpec of the parameter at `path` ("layers_0/mlp/up_proj/kernel").

    Attention is replicated when the heads (or kv heads) do not divide by the model axis, and any
    other tensor whose split dimension does not; each such decision is logged.

    With fsdp a matrix is split over "data" as well, along its largest dimension that "model" does
    not split and "data" divides, so that a device holds 1 / (data * model) of it; norms and biases
    are too small to matter.
    """
    spec = next((spec for pattern, spec in PARAM_SPECS if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(f"no sharding rule for parameter {path!r}: add one to PARAM_SPECS")
    spec = _split_by_model(spec, path, shape, config, mesh)
    if fsdp and len(shape) > 1 and mesh.shape["data"] > 1:
        spec = _split_by_data(spec, path, shape, mesh)
    return spec


def _split_by_model(spec: P, path: str, shape: tuple[int, ...], config, mesh: Mesh) -> P:
    size = mesh.shape["model"]
    if size == 1 or "model" not in spec:
        return spec
    if "self_attn/" in path and (config.num_heads % size or config.num_kv_heads % size):
        reason = f"{config.num_heads} heads, {config.num_kv_heads} kv heads"
        path = path[: path.index("self_attn/") + len("self_attn")]
    elif shape[spec.index("model")] % size:
        reason = f"dimension {shape[spec.index('model')]}"
    else:
        return spec
    _say_replicated(mesh, _any_layer(path), f"{reason} do not divide by model axis {size}")
    return P()


def _split_by_data(spec: P, path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    size = mesh.shape["data"]
    axes = [*spec, *(None,) * (len(shape) - len(spec))]
    for dim in sorted(range(len(shape)), key=lambda dim: -shape[dim]):
        if (axes[dim] is None or mesh.shape[axes[dim]] == 1) and shape[dim] % size == 0:
            axes[dim] = "data"
            return P(*axes)
    reason = f"dimensions {shape} do not divide by data axis {size}"
    _say_replicated(mesh, _any_layer(path), reason)
    return spec


def _any_layer(path: str) -> str:
    return re.sub(r"layers_\d+", "layers_*", path)


def _say_replicated(mesh: Mesh, paths: str, reason: str) -> None:
    if not isinstance(mesh, AbstractMesh):  # a plan tries many
        _warn(f"{paths} is replicated: {reason}")


@functools.cache
def _warn(message: str) -> None:
    """Once for all layers, and for all loads of a process."""
    log.warning(message)


def param_sharding(
    path: str, shape: tuple[int, ...], config, mesh: Mesh, *, fsdp: bool = False
) -> NamedSharding:
    """`param_spec` on the mesh."""
    return NamedSharding(mesh, param_spec(path, shape, config, mesh, fsdp=fsdp))


def num_bytes_per_device(
    shapes: dict[str, tuple[int, ...]], config, mesh: Mesh, itemsize: int, *, fsdp: bool = False
) -> int:
    """Bytes of parameters that each device will hold, before anything is loaded."""
    return itemsize * sum(
        math.prod(param_sharding(path, shape, config, mesh, fsdp=fsdp).shard_shape(shape))
        for path, shape in shapes.items()
    )

"""Start-up of a run over several processes, and what they do together later."""

import importlib.util
import logging
import math
import os
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

import jax

from powerjax.parallel import rendezvous

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """The place of this process in a run of several."""

    coordinator: str  # "host:port" of process 0
    num_processes: int
    process_id: int  # from 0
    local_devices: list[int] | None = None  # ids of this process's devices; None takes all


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: float = 300,
    must_agree: Mapping[str, object] | None = None,
) -> None:
    """Connects this process with the others of its run.

    It has to be called before anything that touches a device. Without arguments the run is looked
    for in the environment: Slurm (srun with several tasks), Open MPI, Cloud TPU pods, GKE,
    Kubernetes (an indexed Job or a JobSet, with the `kubernetes` package). If there is none, this
    process runs alone and nothing happens.

    Args:
      coordinator: "host:port" of process 0, reachable from every host.
      num_processes: how many processes the run has.
      process_id: which of them this one is, from 0.
      timeout_s: how many seconds to wait for the others.
      must_agree: values that have to be equal on all processes, such as flags, by name. The version
        of JAX has to be equal in any case.

    Raises:
      ValueError: the arguments do not fit together, or two processes differ.
      OSError: after timeout_s there is no coordinator, or a process is missing.
      RuntimeError: a device was touched before (JAX's error).
    """
    place = find(coordinator, num_processes, process_id, timeout_s=timeout_s)
    if place is None:
        return
    meet(place, timeout_s=timeout_s, must_agree=must_agree)
    jax.distributed.initialize(
        *place[:3],
        local_device_ids=place.local_devices,
        # `find` has called the detection already, and here it would hide devices.
        cluster_detection_method="deactivate",
        # All processes have just met, so that connecting takes a few seconds.
        initialization_timeout=max(math.ceil(timeout_s), 30),
    )


def find(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: float = 300,
) -> Place | None:
    """Returns this process's place by the arguments of `start`, or else by the environment.

    Returns None if this process runs alone. Raises ValueError and OSError as `start` does.
    """
    if coordinator is None and num_processes is None and process_id is None:
        run = _find_run(timeout_s)
        if run is None:
            return None
        place = Place(*run)
    elif coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "coordinator, num_processes and process_id go together: give all three, or none on "
            "one machine, Slurm, Open MPI, a TPU pod or Kubernetes"
        )
    else:
        place = Place(coordinator, num_processes, process_id)
    check_id(place.num_processes, place.process_id)
    return place


def check_id(num_processes: int, process_id: int) -> None:
    """Raises ValueError unless process_id is one of 0..num_processes - 1."""
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id {process_id} of num_processes {num_processes}: ids count from 0 to "
            "num_processes - 1"
        )


def meet(
    place: Place, *, timeout_s: float = 300, must_agree: Mapping[str, object] | None = None
) -> None:
    """Waits until all processes have come and agree; arguments and errors are those of `start`.

    JAX is not told of the other processes, so each computes on its own devices and goes on if
    another one dies. `start` calls this first and connects the processes afterwards.
    """
    facts = {"jax": jax.__version__} | {k: str(v) for k, v in (must_agree or {}).items()}
    rendezvous.meet(place.coordinator, place.num_processes, place.process_id, facts, timeout_s)


def take_devices(place: Place) -> None:
    """Makes only this process's own GPUs visible, if several processes share a host.

    It has to be called before anything that touches a device.
    """
    if place.local_devices:
        ids = ",".join(map(str, place.local_devices))
        jax.config.update("jax_cuda_visible_devices", ids)
        jax.config.update("jax_rocm_visible_devices", ids)


def is_main() -> bool:
    """Whether this is process 0 of those that `start` connected, which writes the run's only files.

    Without `start`, so after `meet` alone, it is True in every process.
    """
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process that `start` connected has come to the barrier of this name.

    Without `start`, so after `meet` alone, it returns at once.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _find_run(timeout_s: float):
    """Returns (coordinator, num_processes, process_id, local device ids) of the environment.

    Returns None if the environment is not that of several processes. Only otherwise is JAX's own
    detection called. On one machine it could wait for processes that nobody starts, for example in
    a Slurm allocation without srun.
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
        return (*run[:3], None)  # one task per node takes all its GPUs; JAX would take the first
    return run


def is_tpu_pod() -> bool:
    """Whether this is one of several hosts of a Cloud TPU slice, or of several slices."""
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    platforms = getattr(jax.config, "jax_platforms", None)  # JAX adds its options at run time
    if not running_in_cloud_tpu_vm or "tpu" not in (platforms or "tpu"):
        return False
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is None:
        hosts = _tpu_metadata("worker-network-endpoints")
    return "," in hosts or int(os.environ.get("MEGASCALE_NUM_SLICES") or 1) > 1


def _tpu_metadata(key: str) -> str:
    """Returns an attribute of this Cloud TPU host from its metadata server, "" if it has none."""
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

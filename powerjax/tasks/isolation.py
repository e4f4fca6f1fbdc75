"""One process that is kept from doing anything but what it is started for, and its sandbox."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from powerjax.tasks.confined import harness

SITE = "/site"  # the sandbox's folder of packages

_CONFINED = Path(harness.__file__).parent
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); from confined import harness;"
    " harness.main(sys.argv[1:])"
)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of a set of strings does not change from run to run
    "OPENBLAS_NUM_THREADS": "1",
}
_END_S = 2.0
_numbers = itertools.count()


class Process:
    """One process of `confined.harness`, in a sandbox or (sandbox None) in a session.

    Args:
      arguments: of the harness, before those of the limits.
      limits: a `sandbox.Limits`.
      sandbox: the command that runs what follows it in a sandbox.
      keywords: of Popen.
    """

    def __init__(self, arguments, limits, sandbox: Sequence[str] | None, **keywords):
        uid, command, above = 0, [], str(_CONFINED.parent)
        with contextlib.ExitStack() as stack:
            if sandbox is not None:
                above = "/"
                told, tell = os.pipe()
                stack.callback(os.close, told)
                keywords["pass_fds"] += (tell,)
                command = [*sandbox, "--info-fd", str(tell)]
                if os.geteuid() == 0:  # root is exempt from the limit of processes
                    uid = 20_000 + (os.getpid() * 64 + next(_numbers)) % 40_000
            command += [_python(), "-S", "-s", "-B", "-c", _START, above, *map(str, arguments)]
            numbers = [uid, limits.cpu_s, limits.memory_bytes]
            numbers += [limits.num_processes, limits.file_bytes]
            try:
                self.popen = subprocess.Popen(
                    command + [str(number) for number in numbers],
                    env=_ENVIRONMENT,
                    start_new_session=True,
                    **keywords,
                )
            finally:
                if sandbox is not None:
                    os.close(tell)
            # The first process of the namespace, with which all others end.
            self.first = None if sandbox is None else _first_process(told)

    def kill(self) -> None:
        """Ends the process and all that it started; returns when they are gone."""
        if self.first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first, signal.SIGKILL)
            with selectors.DefaultSelector() as selector:
                selector.register(self.first, selectors.EVENT_READ)
                selector.select(_END_S)
            os.close(self.first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(_END_S)  # bubblewrap reaps the first process, and ends
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def exit_status(self) -> int | None:
        """As a shell tells it (128 and the signal's number), None if it does not end soon.

        The process is not reaped, so that nothing else can be killed in its name.
        """
        deadline = time.monotonic() + _END_S
        while hasattr(os, "waitid") and time.monotonic() < deadline:  # older macOS has none
            found = os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if found is not None:
                by_signal = found.si_code != os.CLD_EXITED
                return found.si_status + 128 * by_signal
            time.sleep(0.005)
        return None


def _first_process(told: int) -> int | None:
    """A pidfd of the process that bubblewrap tells of, None if it failed before."""
    text = b""
    while not text.rstrip().endswith(b"}"):
        if not (data := os.read(told, 1 << 12)):
            return None
        text += data
    with contextlib.suppress(ProcessLookupError):
        return os.pidfd_open(json.loads(text)["child-pid"])
    return None


@functools.cache
def options(bwrap: str) -> str:
    """The help of bubblewrap, which lists what this version of it can do."""
    return subprocess.run([bwrap, "--help"], capture_output=True, text=True).stdout


@functools.cache
def sandboxed(bwrap: str, tmp_bytes: int) -> tuple[str, ...]:
    """The command that runs what follows it in a sandbox: bubblewrap, found at `bwrap`."""
    command = [bwrap, "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.geteuid() == 0:
        # Without a user namespace, in which we would stay root to the kernel.
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user"] + ["--disable-userns"] * (
            "--disable-userns" in options(bwrap)
        )
    for name in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            command += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            command += ["--ro-bind", name, name]
    home = os.path.realpath(sys.base_prefix)
    shown = {"/etc/ld.so.cache": "/etc/ld.so.cache", "/nix/store": "/nix/store", home: home}
    package = numpy()
    shown |= {str(package): f"{SITE}/numpy", f"{package}.libs": f"{SITE}/numpy.libs"}
    shown |= {str(_CONFINED): "/confined"}
    for outside, inside in shown.items():
        if outside.startswith("/usr/") and outside == inside:
            continue
        for folder in list(Path(inside).parents)[-2::-1]:  # closed to other users by default
            command += ["--perms", "0755", "--dir", str(folder)]
        command += ["--ro-bind-try", outside, inside]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", "/tmp"]
    command += ["--chdir", "/tmp", "--remount-ro", "/"]
    return tuple(command)


def _python() -> str:
    """This Python, rather than the virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def numpy() -> Path:
    """The folder of the numpy that programs import."""
    return Path(importlib.util.find_spec("numpy").submodule_search_locations[0])

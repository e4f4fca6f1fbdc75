"""Starts one process in a sandbox, which keeps it from doing anything but what it is started for.

What a program could share with the rest of the machine, and what closes it:

| shared                                         | closed by                                   |
|------------------------------------------------|---------------------------------------------|
| files                                          | bubblewrap's root: system, Python, own /tmp |
| processes: their list, signals, /proc          | PID namespace                               |
| network, abstract sockets                      | network namespace                           |
| sockets to hypervisors, crypto, Bluetooth      | seccomp: families of `socket`               |
| System V memory, semaphores, message queues    | IPC namespace and seccomp                   |
| host name; control groups                      | UTS and cgroup namespaces                   |
| keys of the user and session                   | seccomp; /proc/keys is covered              |
| root in a namespace of its own, mounts         | seccomp                                     |
| memfds and other memory that no limit counts   | seccomp                                     |
| inotify, leases and locks on the host's files  | seccomp                                     |
| ptrace and other processes' memory             | seccomp, and a user id of its own (as root) |
| io_uring, bpf, perf, userfaultfd, personality  | seccomp                                     |
| kernel log                                     | seccomp                                     |
| clocks, swap, modules, kexec, reboot           | no capabilities, and seccomp                |
| the terminal (TIOCSTI)                         | a session of its own, no terminal is open   |
| set-user-id programs                           | no_new_privs (bubblewrap)                   |
| core dumps that the host's handler would store | a core limit of one byte                    |
"""

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
from typing import Any

from powerjax.tasks.sandbox import seccomp
from powerjax.tasks.sandbox.confined import harness
from powerjax.tasks.sandbox.limits import Limits

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
    "PYTHONHASHSEED": "0",  # so that a set of strings has the same order in every run
    "OPENBLAS_NUM_THREADS": "1",
}
_END_S = 2.0  # for a killed process to end
_HELP_S = 20.0  # for `bwrap --help`
_numbers = itertools.count()  # so that processes at a time have user ids of their own


class Process:
    """One process of `confined.harness`.

    Args:
      arguments: the harness's arguments up to those for the limits.
      limits: what the process may use.
      sandbox: the command that runs what follows it in a sandbox; None to run the process in a
        session of its own, without a sandbox.
      deadline: the time of `time.monotonic()` until which bubblewrap is waited for.
      keywords: keywords of Popen, `pass_fds` among them.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        limits: Limits,
        sandbox: Sequence[str] | None,
        deadline: float,
        **keywords: Any,
    ):
        uid, above = 0, str(_CONFINED.parent)
        command: list[str] = []
        with contextlib.ExitStack() as stack:
            if sandbox is not None:
                above = "/"
                info, give_info = os.pipe()
                stack.callback(os.close, info)
                calls = _refused_calls()
                stack.callback(os.close, calls)
                keywords["pass_fds"] += (give_info, calls)
                command = [*sandbox, "--info-fd", str(give_info), "--seccomp", str(calls)]
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
                    os.close(give_info)
            # The first process of the namespace. When it ends, all others do.
            self.first = None if sandbox is None else _first_process(info, deadline)

    def kill(self) -> None:
        """Ends the process and all that it started. Returns when they are gone."""
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
        """Returns the exit status as a shell does: 128 plus the signal's number after a signal.

        None if the process does not end soon. The process is not reaped, so that its id cannot
        pass to another process, which `kill` would then end.
        """
        deadline = time.monotonic() + _END_S
        while hasattr(os, "waitid") and time.monotonic() < deadline:  # older macOS has none
            end = os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if end is not None:
                by_signal = end.si_code != os.CLD_EXITED
                return end.si_status + 128 * by_signal
            time.sleep(0.005)
        return None


def _refused_calls() -> int:
    """Returns the read end of a pipe that holds the seccomp filter."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write(seccomp.program(os.uname().machine))
    return read


def _first_process(info: int, deadline: float) -> int | None:
    """Returns a pidfd of the process that bubblewrap names as the first in the sandbox.

    None if bubblewrap failed before or did not name it by the deadline.

    Args:
      info: the read end of the pipe that was given to bubblewrap as --info-fd.
      deadline: a time of `time.monotonic()`.
    """
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(info, selectors.EVENT_READ)
        while not text.rstrip().endswith(b"}"):
            if not selector.select(max(0, deadline - time.monotonic())):
                return None
            if not (data := os.read(info, 1 << 12)):
                return None
            text += data
    with contextlib.suppress(ProcessLookupError, ValueError, KeyError, TypeError):
        return os.pidfd_open(json.loads(text)["child-pid"])
    return None


@functools.cache
def options(bwrap: str) -> str:
    """Returns bubblewrap's help, which lists the options of this version.

    Raises an OSError that gives the reason if bubblewrap cannot be run.
    """
    try:
        done = subprocess.run(
            [bwrap, "--help"], capture_output=True, stdin=subprocess.DEVNULL, timeout=_HELP_S
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{bwrap} --help does not end within {_HELP_S:g} s") from None
    if done.returncode:
        raise OSError(reason(done.stderr) or f"{bwrap} --help {ending(done.returncode)}")
    return done.stdout.decode(errors="replace")


def reason(said: bytes) -> str:
    """Returns the last line that a process said, in printable characters; "" if it said nothing."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "")
    return "".join(letter if letter.isprintable() else " " for letter in line)[:500]


def ending(status: int | None) -> str:
    """Returns in words how a process ended that said nothing.

    Args:
      status: the exit status of Popen (minus the signal's number after a signal) or of a shell (128
        plus that number); None if the process has not ended.
    """
    if status is None:
        return "has not ended, and said nothing"
    number = -status if status < 0 else status - 128
    how = f"was ended by signal {number}" if number > 0 else f"ended with status {status}"
    return f"{how} and said nothing"


@functools.cache
def sandboxed(bwrap: str, tmp_bytes: int) -> tuple[str, ...]:
    """Returns the command that runs what follows it in a sandbox.

    Args:
      bwrap: the path of bubblewrap.
      tmp_bytes: how much /tmp may hold.
    """
    # --- namespaces and rights ---
    command = [bwrap, "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.geteuid() == 0:
        # No user namespace: in one, the process would still be root to the kernel.
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user"] + ["--disable-userns"] * (
            "--disable-userns" in options(bwrap)
        )
    # --- what is visible of the file system ---
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
        for folder in list(Path(inside).parents)[-2::-1]:  # by default closed to other users
            command += ["--perms", "0755", "--dir", str(folder)]
        command += ["--ro-bind-try", outside, inside]
    # --- /proc, /dev and /tmp ---
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for name in ("/proc/keys", "/proc/key-users"):
        if os.path.exists(name):
            command += ["--ro-bind", "/dev/null", name]
    command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", "/tmp"]
    command += ["--chdir", "/tmp", "--remount-ro", "/"]
    return tuple(command)


def _python() -> str:
    """Returns the path of this Python itself, not of the virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def numpy() -> Path:
    """Returns the folder of the numpy that programs import. Raises OSError if there is none."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or not spec.submodule_search_locations:
        raise OSError("numpy, which programs may import, is not installed")
    return Path(spec.submodule_search_locations[0])

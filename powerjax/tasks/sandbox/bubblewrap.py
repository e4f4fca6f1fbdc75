"""One process that is kept from doing anything but what it is started for, and its sandbox.

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

from powerjax.tasks.sandbox import seccomp
from powerjax.tasks.sandbox.confined import harness

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
_HELP_S = 20.0
_numbers = itertools.count()


class Process:
    """One process of `confined.harness`, in a sandbox or (sandbox None) in a session.

    Args:
      arguments: of the harness, before those of the limits.
      limits: a `sandbox.Limits`.
      sandbox: the command that runs what follows it in a sandbox.
      deadline: the time of `time.monotonic()` until which bubblewrap is waited for.
      keywords: of Popen.
    """

    def __init__(self, arguments, limits, sandbox: Sequence[str] | None, deadline, **keywords):
        uid, command, above = 0, [], str(_CONFINED.parent)
        with contextlib.ExitStack() as stack:
            if sandbox is not None:
                above = "/"
                told, tell = os.pipe()
                stack.callback(os.close, told)
                calls = _refused_calls()
                stack.callback(os.close, calls)
                keywords["pass_fds"] += (tell, calls)
                command = [*sandbox, "--info-fd", str(tell), "--seccomp", str(calls)]
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
            self.first = None if sandbox is None else _first_process(told, deadline)

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


def _refused_calls() -> int:
    """The read end of a pipe that holds the seccomp filter."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write(seccomp.program(os.uname().machine))
    return read


def _first_process(told: int, deadline: float) -> int | None:
    """A pidfd of the process that bubblewrap tells of, None if it failed before or was too slow."""
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(told, selectors.EVENT_READ)
        while not text.rstrip().endswith(b"}"):
            if not selector.select(max(0, deadline - time.monotonic())):
                return None
            if not (data := os.read(told, 1 << 12)):
                return None
            text += data
    with contextlib.suppress(ProcessLookupError, ValueError, KeyError, TypeError):
        return os.pidfd_open(json.loads(text)["child-pid"])
    return None


@functools.cache
def options(bwrap: str) -> str:
    """The help of bubblewrap, which lists what this version of it can do.

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
    """The last line of what a process said, in printable characters; "" if it said nothing."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "")
    return "".join(letter if letter.isprintable() else " " for letter in line)[:500]


def ending(status: int | None) -> str:
    """How a process ended that said nothing.

    Args:
      status: as of Popen (a signal's number is negative) or of a shell; None if it has not ended.
    """
    if status is None:
        return "has not ended, and said nothing"
    number = -status if status < 0 else status - 128
    how = f"was ended by signal {number}" if number > 0 else f"ended with status {status}"
    return f"{how} and said nothing"


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
    for name in ("/proc/keys", "/proc/key-users"):
        if os.path.exists(name):
            command += ["--ro-bind", "/dev/null", name]
    command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", "/tmp"]
    command += ["--chdir", "/tmp", "--remount-ro", "/"]
    return tuple(command)


def _python() -> str:
    """This Python, rather than the virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def numpy() -> Path:
    """The folder of the numpy that programs import."""
    return Path(importlib.util.find_spec("numpy").submodule_search_locations[0])

"""The processes of one run meet over plain TCP before JAX connects them.

JAX's own start-up ends in a C++ abort if a process is missing. Here every process first connects to
a port of process 0, the coordinator, and is told in one line which process is missing or was
started differently.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping

_GREETING = "powerjax"
_LINGER_S = 10.0  # seconds that a run that cannot start waits for the rest, to tell them why


def meet(
    address: str,
    num_processes: int,
    process_id: int,
    facts: Mapping[str, str],
    timeout_s: float,
) -> None:
    """Waits until all processes have come with equal facts, and then returns on each of them.

    Process 0 listens on the port of `address` at every network address of its host, and closes it
    before it returns. The others connect to `address`.

    Args:
      address: "host:port" of process 0. Process 0 itself uses only the port.
      num_processes, process_id: how many processes there are, and which this one is, from 0.
      facts: what has to be equal on all processes, by name. `num_processes` is compared too and
        need not be among them.
      timeout_s: how many seconds to wait for the others.

    Raises, with the same line on every process that was reached:
      ValueError: two processes differ in a fact, or carry the same id above 0.
      OSError: process 0 cannot listen on the port, for example because a second process with id 0
        runs on its host; or a process does not come within timeout_s.
    """
    port = split_address(address)[1]
    facts = {"num_processes": str(num_processes), **facts}
    if process_id == 0:
        _receive_all(address, port, num_processes, facts, timeout_s)
    else:
        _come(address, process_id, facts, timeout_s)


def split_address(address: str) -> tuple[str, int]:
    """Returns ("10.0.0.1", 1234) for "10.0.0.1:1234", and ("::1", 1234) for "[::1]:1234".

    Raises ValueError for anything but host:port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"coordinator {address!r} is no address: give host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _receive_all(
    address: str, port: int, num_processes: int, facts: Mapping[str, str], timeout_s: float
) -> None:
    """Does the work of process 0: collects the others, and tells all of them what it concluded.

    It then raises the error that it told them, if there was one.
    """
    arrivals = _Arrivals(num_processes, facts, time.monotonic() + timeout_s)
    kind = "ValueError"
    try:
        with _listen(port) as listener:
            while not arrivals.complete() and (left := arrivals.deadline - time.monotonic()) > 0:
                listener.settimeout(left)
                try:
                    connection = listener.accept()[0]
                except TimeoutError:
                    break
                arrivals.receive(connection)
        absent = sorted(set(range(1, num_processes)) - arrivals.by_id.keys())
        if absent and not arrivals.problem:
            kind = "OSError"
            arrivals.problem = (
                f"{_counted(absent)} of {num_processes} did not come to the coordinator {address} "
                f"within {timeout_s:g} s: start every process with the same coordinator and "
                "number of processes, and let every host reach that port"
            )
        for connection in arrivals.connections:
            message = {"greeting": _GREETING, "problem": arrivals.problem, "kind": kind}
            _write(connection, message)
    finally:
        for connection in arrivals.connections:
            connection.close()
    if arrivals.problem:
        raise _error(kind, arrivals.problem)


class _Arrivals:
    """The processes that have come to process 0, and the first problem with one of them."""

    def __init__(self, num_processes: int, facts: Mapping[str, str], deadline: float):
        self.facts = facts
        self.deadline = deadline  # of time.monotonic
        # The highest number of processes that anyone believes in, so that all hear of a difference.
        self.expected = num_processes
        self.by_id: dict[int, socket.socket] = {}
        self.connections: list[socket.socket] = []  # all that greeted, to be told the outcome
        self.problem: str | None = None

    def complete(self) -> bool:
        """Whether all expected processes have come."""
        return len(self.by_id) >= self.expected - 1

    def receive(self, connection: socket.socket) -> None:
        """Reads the greeting of a new connection, and notes who it is and what is wrong."""
        greeting = _read(connection, timeout_s=5.0)
        if not greeting or greeting.get("greeting") != _GREETING:
            connection.close()  # it is not one of this program's processes
            return
        self.connections.append(connection)
        process_id, facts = greeting["process_id"], greeting["facts"]
        problem = _difference(process_id, facts, self.facts)
        earlier = self.by_id.get(process_id)
        if earlier is not None and not _has_left(earlier) and not problem:
            problem = f"two processes have process_id {process_id}: count them from 0 up"
        if problem and not self.problem:
            self.problem = problem
            self.deadline = min(self.deadline, time.monotonic() + _LINGER_S)
        self.expected = max(self.expected, int(facts["num_processes"]))
        self.by_id[process_id] = connection  # replaces one that died and was started again
        if self.complete():
            # Whoever died while waiting has to come again.
            self.by_id = {i: c for i, c in self.by_id.items() if not _has_left(c)}


def _come(address: str, process_id: int, facts: Mapping[str, str], timeout_s: float) -> None:
    """Does the work of the other processes: greets process 0 and raises the error it answers."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            with socket.create_connection(split_address(address), timeout=min(left, 5.0)) as s:
                _write(s, {"greeting": _GREETING, "process_id": process_id, "facts": facts})
                answer = _read(s, timeout_s=left + _LINGER_S)
                reason = "it never said that all had come"
        except OSError as error:  # also for a host name that does not resolve yet
            answer, reason = None, str(error.strerror or error)
        if answer is not None:
            break
        if time.monotonic() >= deadline:
            raise OSError(
                f"no coordinator at {address} within {timeout_s:g} s ({reason}): start process 0 "
                "there, and let every host reach that port"
            )
        time.sleep(0.2)
    if answer.get("greeting") != _GREETING:
        raise OSError(f"something else than this program listens at {address}: take another port")
    if answer["problem"]:
        raise _error(answer["kind"], answer["problem"])


def _error(kind: str, problem: str) -> ValueError | OSError:
    """Returns the error that a message between processes describes."""
    return ValueError(problem) if kind == "ValueError" else OSError(problem)


def _difference(
    process_id: int, facts: Mapping[str, str], facts_of_zero: Mapping[str, str]
) -> str | None:
    """Returns a line about the first fact in which a process differs from process 0, or None."""
    for name in sorted(facts.keys() | facts_of_zero.keys()):
        a, b = facts.get(name), facts_of_zero.get(name)
        if a != b:
            return (
                f"process {process_id} has {name} {a}, process 0 has {b}: start all of them alike"
            )
    return None


def _counted(processes: list[int]) -> str:
    """Returns "process 1", "processes 1, 3", or the first eight of a longer list."""
    shown = ", ".join(map(str, processes[:8])) + (", ..." if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {shown}"


def _listen(port: int) -> socket.socket:
    """Listens on the port of every address of this host, IPv6 and IPv4 where it has both."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None else error
        raise OSError(
            f"process 0 cannot listen on port {port} ({reason}): take another "
            "port in the coordinator's address"
        ) from error


def _has_left(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection, which it also has if its process died."""
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _write(connection: socket.socket, message: dict) -> None:
    """Sends one line of JSON."""
    # The other side may have left. Whoever waits for it notices that by its own timeout.
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout_s: float) -> dict | None:
    """Reads one line of JSON. Returns None if none came in time, {} if it is no JSON object."""
    connection.settimeout(timeout_s)
    try:
        with connection.makefile("rb") as lines:
            line = lines.readline(65536)
    except OSError:
        return None
    if not line.endswith(b"\n"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}

"""The processes of one run meet over plain TCP before JAX connects them.

JAX's own start-up ends in a C++ abort when a process is missing. Here everyone comes to the
coordinator's port first, and learns in one line who is missing or started differently.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping

_GREETING = "powerjax"
_LINGER_S = 10.0  # how long a run that cannot start waits for the rest, to tell them why


def meet(
    address: str,
    num_processes: int,
    process_id: int,
    facts: Mapping[str, str],
    timeout_s: float,
) -> None:
    """Returns on every process once all are there with equal facts.

    Process 0 listens at `address` ("host:port") and has let go of the port on return; the others
    come to it. `num_processes` is one of the facts.

    Raises, with the same line on every process that was reached:
      ValueError: two processes differ in a fact, or carry the same id.
      OSError: the port cannot be had, or somebody is not there within timeout_s.
    """
    port = split_address(address)[1]
    facts = {"num_processes": str(num_processes), **facts}
    if process_id == 0:
        _receive_all(address, port, num_processes, facts, timeout_s)
    else:
        _come(address, process_id, facts, timeout_s)


def split_address(address: str) -> tuple[str, int]:
    """("10.0.0.1", 1234) of "10.0.0.1:1234", ("::1", 1234) of "[::1]:1234"."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"coordinator {address!r} is no address: give host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _receive_all(address: str, port: int, num_processes: int, facts: dict, timeout_s: float):
    """Process 0: raises or returns what every process that came is told."""
    deadline = time.monotonic() + timeout_s
    came: dict[int, socket.socket] = {}
    connections = []
    problem, kind = None, "ValueError"
    expected = num_processes  # or what the others believe, so that all hear of the difference
    try:
        with _listen(port) as listener:
            while len(came) < expected - 1 and (left := deadline - time.monotonic()) > 0:
                listener.settimeout(left)
                try:
                    connection = listener.accept()[0]
                except TimeoutError:
                    break
                hello = _read(connection, timeout_s=5.0)
                if not hello or hello.get("greeting") != _GREETING:
                    connection.close()  # a stranger
                    continue
                connections.append(connection)
                who = hello["process_id"]
                found = _difference(who, hello["facts"], facts)
                if who in came and not _has_left(came[who]):
                    found = found or f"two processes have process_id {who}: count them from 0 up"
                if found and not problem:
                    problem = found
                    deadline = min(deadline, time.monotonic() + _LINGER_S)
                expected = max(expected, int(hello["facts"]["num_processes"]))
                came[who] = connection  # in the place of one that died and was started again
                if len(came) == expected - 1:
                    came = {i: c for i, c in came.items() if not _has_left(c)}
        absent = sorted(set(range(1, num_processes)) - came.keys())
        if absent and not problem:
            kind = "OSError"
            problem = (
                f"{_counted(absent)} of {num_processes} did not come to the coordinator {address} "
                f"within {timeout_s:g} s: start every process with the same coordinator and "
                "number of processes, and let every host reach that port"
            )
        for connection in connections:
            _write(connection, {"greeting": _GREETING, "problem": problem, "kind": kind})
    finally:
        for connection in connections:
            connection.close()
    if problem:
        raise _error(kind, problem)


def _come(address: str, process_id: int, facts: dict, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            with socket.create_connection(split_address(address), timeout=min(left, 5.0)) as s:
                _write(s, {"greeting": _GREETING, "process_id": process_id, "facts": facts})
                answer = _read(s, timeout_s=left + _LINGER_S)
                reason = "it never said that all had come"
        except OSError as error:  # a name that does not resolve yet is one too
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
    return ValueError(problem) if kind == "ValueError" else OSError(problem)


def _difference(who: int, theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = theirs.get(name), ours.get(name)
        if a != b:
            return f"process {who} has {name} {a}, process 0 has {b}: start all of them alike"
    return None


def _counted(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:8])) + (", ..." if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {shown}"


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise OSError(
            f"process 0 cannot listen on port {port} ({os.strerror(error.errno)}): take another "
            "port in the coordinator's address"
        ) from error


def _has_left(connection: socket.socket) -> bool:
    """Whether the other side closed the connection, as a process that died has."""
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _write(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):  # it left; whoever waits for it finds out
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout_s: float) -> dict | None:
    """One line of JSON; None if none came in time; {} if it is something else."""
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

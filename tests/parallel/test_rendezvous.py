"""The meeting of processes before JAX connects them, with threads in their place."""

import socket
import threading
import time

import pytest

from powerjax.parallel import rendezvous


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def play(*processes, timeout_s=10.0):
    """Runs `meet` for each (process_id, num_processes, facts) in a thread of its own.

    Returns (error type, message) or None for each, and the address.
    """
    address = f"127.0.0.1:{free_port()}"
    outcomes = [None] * len(processes)

    def one(slot, process_id, num_processes, facts):
        try:
            rendezvous.meet(address, num_processes, process_id, facts, timeout_s)
        except (ValueError, OSError) as error:
            outcomes[slot] = error

    threads = [
        threading.Thread(target=one, args=(slot, *process))
        for slot, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("\n" not in str(error) for error in outcomes)
    return [error and (type(error), str(error)) for error in outcomes], address


def test_all_come():
    outcomes, _ = play((2, 3, {"seed": "1"}), (0, 3, {"seed": "1"}), (1, 3, {"seed": "1"}))
    assert outcomes == [None] * 3


def test_one_process_needs_no_other():
    assert play((0, 1, {}))[0] == [None]


def test_a_missing_process_is_named_to_all():
    outcomes, address = play((0, 4, {}), (2, 4, {}), timeout_s=1.0)
    assert outcomes[0] == outcomes[1]
    kind, line = outcomes[0]
    assert kind is OSError
    assert line.startswith(f"processes 1, 3 of 4 did not come to the coordinator {address} within")


def test_no_coordinator():
    started = time.monotonic()
    outcomes, address = play((1, 2, {}), timeout_s=1.0)
    assert time.monotonic() - started < 3
    assert outcomes[0][0] is OSError
    assert f"no coordinator at {address} within 1 s (Connection refused)" in outcomes[0][1]


def test_an_unknown_host_is_no_coordinator():
    with pytest.raises(OSError, match=r"no coordinator at nohost.invalid:9 within"):
        rendezvous.meet("nohost.invalid:9", 2, 1, {}, timeout_s=0.3)


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ((1, 2, {"jax": "0.9"}), "process 1 has jax 0.9, process 0 has 0.10"),
        ((1, 2, {}), "process 1 has jax None, process 0 has 0.10"),
        ((1, 3, {"jax": "0.10"}), "process 1 has num_processes 3, process 0 has 2"),
    ],
)
def test_differences_are_named_to_all(other, line, monkeypatch):
    monkeypatch.setattr(rendezvous, "_LINGER_S", 0.5)
    outcomes, _ = play((0, 2, {"jax": "0.10"}), other)
    assert outcomes[0] == outcomes[1] == (ValueError, f"{line}: start all of them alike")


def test_two_of_the_same_id(monkeypatch):
    monkeypatch.setattr(rendezvous, "_LINGER_S", 0.5)
    outcomes, _ = play((0, 3, {}), (1, 3, {}), (1, 3, {}))
    assert set(outcomes) == {
        (ValueError, "two processes have process_id 1: count them from 0 up"),
    }


def test_all_hear_that_process_zero_counts_fewer(monkeypatch):
    monkeypatch.setattr(rendezvous, "_LINGER_S", 1.0)
    outcomes, _ = play((0, 2, {}), (1, 3, {}), (2, 3, {}))
    assert len(set(outcomes)) == 1
    assert "has num_processes 3, process 0 has 2" in outcomes[0][1]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_process_that_died_while_waiting_may_come_again(order):
    port = free_port()
    host = threading.Thread(target=rendezvous.meet, args=(f"127.0.0.1:{port}", 3, 0, {}, 10.0))
    host.start()
    with _connect(port) as first:
        first.sendall(
            b'{"greeting": "powerjax", "process_id": 1, "facts": {"num_processes": "3"}}\n'
        )
        time.sleep(0.2)
    others = [
        threading.Thread(target=rendezvous.meet, args=(f"127.0.0.1:{port}", 3, i, {}, 10.0))
        for i in order
    ]
    others[0].start()
    others[0].join(0.5)
    assert host.is_alive() and others[0].is_alive()  # a dead process does not count
    others[1].start()
    for thread in (host, *others):
        thread.join(5)
        assert not thread.is_alive()


def test_strangers_are_sent_away():
    port = free_port()
    host = threading.Thread(target=rendezvous.meet, args=(f"127.0.0.1:{port}", 2, 0, {}, 10.0))
    host.start()
    with _connect(port) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(1) == b""
    rendezvous.meet(f"127.0.0.1:{port}", 2, 1, {}, timeout_s=5)
    host.join(5)
    assert not host.is_alive()


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as s:
        port = s.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on port {port} .*another port"):
            rendezvous.meet(f"127.0.0.1:{port}", 2, 0, {}, timeout_s=1)


def test_something_else_listens():
    with socket.create_server(("127.0.0.1", 0)) as s:

        def answer():
            connection = s.accept()[0]
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer).start()
        with pytest.raises(OSError, match="something else than this program listens"):
            rendezvous.meet(f"127.0.0.1:{s.getsockname()[1]}", 2, 1, {}, timeout_s=3)


@pytest.mark.parametrize("address", ["host", "host:", ":1", "host:x", "host:0", "host:70000"])
def test_what_is_no_address(address):
    with pytest.raises(ValueError, match="give host:port"):
        rendezvous.split_address(address)


def test_addresses():
    assert rendezvous.split_address("10.0.0.1:80") == ("10.0.0.1", 80)
    assert rendezvous.split_address("[::1]:80") == ("::1", 80)


def _connect(port: int) -> socket.socket:
    for _ in range(50):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            time.sleep(0.1)
    raise AssertionError("process 0 does not listen")

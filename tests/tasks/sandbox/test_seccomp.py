"""The filter of system calls: what it refuses on each machine, and that programs meet it."""

import errno
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from powerjax.tasks import sandbox
from powerjax.tasks.sandbox import programs, seccomp

ALLOWED, KILLED = "allowed", "killed"
HEADERS = {
    "x86_64": f"/usr/include/{os.uname().machine}-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}


def verdict(machine, call, *arguments, audit=None):
    """What the kernel would make of a call: ALLOWED, KILLED or the number of an error."""
    code = list(struct.iter_unpack("<HBBI", seccomp.program(machine)))
    audit = seccomp.MACHINES[machine][0] if audit is None else audit
    arguments = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", call & 0xFFFFFFFF, audit, 0, *arguments)
    tests = {0x15: lambda a, k: a == k, 0x25: lambda a, k: a > k, 0x45: lambda a, k: a & k}
    loaded, at = None, 0
    while True:
        kind, if_true, if_false, number = code[at]
        at += 1
        if kind == 0x20:
            (loaded,) = struct.unpack_from("<I", data, number)
        elif kind == 0x06:
            what, error = number & 0xFFFF0000, number & 0xFFFF
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED, 0x00050000: error}[what]
        else:
            at += if_true if tests[kind](loaded, number) else if_false


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_every_call_of_the_table_is_refused_and_every_other_allowed(machine):
    column = seccomp.MACHINES[machine][1]
    refused = {numbers[column] for numbers in seccomp.REFUSED.values()}
    for call in range(seccomp.NEWEST + 1):
        if call in refused:
            expected = errno.EPERM
        elif call == seccomp.MISSING["clone3"][column]:
            expected = errno.ENOSYS
        elif call in (seccomp.SOCKET[column], seccomp.SOCKETPAIR[column]):
            expected = errno.EAFNOSUPPORT  # of family 0
        else:
            expected = ALLOWED
        assert verdict(machine, call) == expected, call
    for call in (seccomp.NEWEST + 1, 0x40000000, 0x40000000 + 250, -1):  # x32 is among them
        assert verdict(machine, call) == errno.ENOSYS
    assert verdict(machine, 0, audit=0x40000003) == KILLED  # a 32-bit program's call
    assert len(seccomp.program(machine)) < 4096 * 8  # BPF_MAXINSNS, and what a pipe holds


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_calls_that_are_refused_by_an_argument(machine):
    column = seccomp.MACHINES[machine][1]
    clone, fcntl = seccomp.CLONE[column], seccomp.FCNTL[column]
    for bit in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, clone, bit | 17) == errno.EPERM
        assert verdict(machine, clone, bit | 1 << 40) == errno.EPERM
    assert verdict(machine, clone, 0x3D0F00) == ALLOWED  # a thread
    assert verdict(machine, clone, 0x01200011) == ALLOWED  # fork
    for family in range(48):
        expected = ALLOWED if family in (1, 2, 10) else errno.EAFNOSUPPORT
        assert verdict(machine, seccomp.SOCKET[column], family) == expected
        assert verdict(machine, seccomp.SOCKETPAIR[column], family) == expected
    assert [verdict(machine, fcntl, 0, command) for command in (1, 1024, 1025, 1026, 1030)] == [
        *(ALLOWED, errno.EPERM, ALLOWED, errno.EPERM, ALLOWED)
    ]


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(machine):
    if not os.path.exists(HEADERS[machine]):
        pytest.skip(f"{HEADERS[machine]} is not installed")
    text = Path(HEADERS[machine]).read_text()
    named = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", text, re.M)
    header = {name: int(number) for name, number in named}
    by_argument = {
        "clone": seccomp.CLONE,
        "socket": seccomp.SOCKET,
        "socketpair": seccomp.SOCKETPAIR,
        "fcntl": seccomp.FCNTL,
    }
    column = seccomp.MACHINES[machine][1]
    for name, numbers in (seccomp.REFUSED | seccomp.MISSING | by_argument).items():
        if name in header or numbers[column] is None:  # older headers lack the newest calls
            assert header.get(name) == numbers[column], name


@pytest.fixture
def run(bubblewrap):
    def run(source, tests, limits=None):
        return sandbox.run(sandbox.Program(source, tests, "f"), limits=limits)

    return run


CALL = """
import ctypes
C = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = C.syscall(number, *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if result == -1 else 0
"""


def test_a_program_meets_the_filter_in_every_call_of_the_table(run):
    column = seccomp.MACHINES[os.uname().machine][1]
    numbers = [n[column] for n in seccomp.REFUSED.values() if n[column] is not None]
    source = f"{CALL}\ndef f(numbers): return [call(n, 0, 0, 0, 0, 0, 0) for n in numbers]"
    result = run(source, f"assert f({numbers}) == {[errno.EPERM] * len(numbers)}")
    assert result.passed, result
    # And so does what it starts.
    source = f"""
import subprocess, sys
def f(number):
    code = {CALL!r} + f"\\nprint(call({{number}}, 0, -3, 0))"
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True).stdout
"""
    result = run(source, f"assert f({seccomp.REFUSED['keyctl'][column]}) == b'1\\n'")
    assert result.passed, result


# Each would raise nothing if it worked. Of each kind of what the kernel shares, two.
REACHES = {
    "makes_a_user_namespace": "call('unshare', 0x10000000)",
    "makes_a_user_namespace_by_clone": "call(CLONE, 0x10000011, 0, 0, 0, 0)",
    "makes_a_namespace_by_clone3": "call('clone3', 0, 0)",
    "makes_memory_of_its_own": "call('memfd_create', b'x', 0)",
    "makes_secret_memory": "call('memfd_secret', 0)",
    "makes_shared_memory": "call('shmget', 0, 1 << 20, 0o1600)",
    "makes_semaphores": "call('semget', 0, 9, 0o1600)",
    "makes_a_queue": "call('mq_open', b'/x', 0o102, 0o600, 0)",
    "watches_the_systems_files": "call('inotify_init1', 0)",
    "watches_a_folder": "fcntl.fcntl(os.open('/usr', 0), 1026, 2)",
    "locks_the_systems_files": "fcntl.flock(os.open('/usr', 0), fcntl.LOCK_EX)",
    "reads_the_list_of_keys": "open('/proc/keys').read(1)",
    "reads_the_users_of_keys": "open('/proc/key-users').read(1)",
    "reads_the_kernels_log": "call('syslog', 10, 0, 0)",
    "traces": "call('ptrace', 0, 0, 0, 0)",
    "makes_a_ring": "call('io_uring_setup', 1, ctypes.create_string_buffer(120))",
    "calls_the_machine_below": "socket.socket(40, 1)",  # AF_VSOCK
    "uses_the_kernels_ciphers": "socket.socket(38, 5)",  # AF_ALG
    "turns_off_random_addresses": "call('personality', 0x0040000)",
}


@pytest.mark.parametrize("reach", REACHES)
def test_a_program_does_not_reach_what_the_kernel_shares(run, reach):
    column = seccomp.MACHINES[os.uname().machine][1]
    numbers = {name: n[column] for name, n in (seccomp.REFUSED | seccomp.MISSING).items()}
    source = f"""
import ctypes, fcntl, os, socket
CLONE, NUMBERS = {seccomp.CLONE[column]}, {numbers}
C = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = C.syscall(NUMBERS.get(name, name), *longs)
    if name == CLONE and not result:
        os._exit(0)
    if result == -1:
        raise OSError(ctypes.get_errno(), 'refused')
def f():
    {REACHES[reach]}
"""
    result = run(source, "try: f()\nexcept OSError: pass\nelse: assert False")
    assert result.passed, result


def test_the_keys_of_our_session_are_neither_read_nor_revoked_nor_added_to(run, tmp_path):
    column = seccomp.MACHINES[os.uname().machine][1]
    add_key, keyctl = seccomp.REFUSED["add_key"][column], seccomp.REFUSED["keyctl"][column]
    # In a process of its own, so that this one's session is left alone.
    ours = f"""
import ctypes, sys
from powerjax.tasks import sandbox
C = ctypes.CDLL(None, use_errno=True)
JOIN, REVOKE, READ, SESSION = 1, 3, 11, -3
if C.syscall({keyctl}, JOIN, None) == -1:
    sys.exit(77)
key = C.syscall({add_key}, b"user", b"ours", b"secret", 6, SESSION)
if key == -1:
    sys.exit(77)
before = C.syscall({keyctl}, READ, SESSION, None, 0)
source = '''
import ctypes
C = ctypes.CDLL(None, use_errno=True)
def f(key, session):
    text = ctypes.create_string_buffer(9)
    C.syscall({keyctl}, 11, key, text, 9)
    C.syscall({add_key}, b"user", b"theirs", b"left", 4, session)
    C.syscall({keyctl}, 3, key)
    return text.value
'''
result = sandbox.run(sandbox.Program(source, f"assert f({{key}}, {{SESSION}}) == b''", "f"))
assert result.passed, result
text = ctypes.create_string_buffer(9)
assert C.syscall({keyctl}, READ, key, text, 9) == 6 and text.value == b"secret", text.value
assert C.syscall({keyctl}, READ, SESSION, None, 0) == before
"""
    done = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this machine gives no session keyring")
    assert done.returncode == 0, done.stderr


def test_no_memory_is_mounted_in_a_user_namespace(run):
    source = """
import subprocess
def f():
    mount = "mount -t tmpfs none /tmp && head -c 90000000 /dev/zero > /tmp/x && echo mounted"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
        capture_output=True, text=True,
    ).stdout
"""
    result = run(source, "assert f() == ''", sandbox.Limits(file_bytes=1 << 30))
    assert result.passed, result


def test_what_programs_need_still_works(run):
    source = """
import asyncio, concurrent.futures, os, socket, subprocess, tempfile
import numpy
def f():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        total = sum(pool.map(abs, [-1, -2]))
    async def one(): return 1
    total += asyncio.run(one())
    a, b = socket.socketpair()
    a.send(b"x")
    total += len(b.recv(1)) + len(subprocess.run(["echo"], capture_output=True).stdout)
    with tempfile.TemporaryFile() as file:
        total += file.write(b"x")
    total += int((numpy.ones((64, 64)) @ numpy.ones((64, 64)))[0, 0])
    if not (child := os.fork()):
        os._exit(0)
    return total + os.waitpid(child, 0)[1]
"""
    result = run(source, "assert f() == 71")
    assert result.passed, result


def test_a_crash_calls_no_handler_of_core_dumps(run):
    # With a limit of 0 bytes the kernel would still run a handler that core_pattern names.
    source = "import resource\ndef f(): return resource.getrlimit(resource.RLIMIT_CORE)"
    assert run(source, "assert f() in ((1, 1), (0, 0))\nassert f()[0]").passed


def test_a_machine_whose_calls_are_not_known_is_refused_by_name(run, monkeypatch):
    import types

    monkeypatch.setattr(programs.os, "uname", lambda: types.SimpleNamespace(machine="ppc64le"))
    with pytest.raises(OSError, match=r"^programs cannot be confined on ppc64le \(but on x86_64, "):
        sandbox.require()
    assert sandbox.require(unsafe_exec=True) is None

"""The two processes of one run: the tester, and the program under test.

    main(["tester", REQUESTS, REPLIES, *LIMITS])    tests on stdin, verdict on stdout
    main(["program", REPLIES, SITE, *LIMITS])       requests on stdin

The tester holds the tests and their expected values. It asks the program's process to run the
source, then to make one call at a time, and gets back plain data (see `plain`) or the name of an
exception. No object that the program makes and no line of its code enters the tester's interpreter,
and the verdict leaves on a pipe that the program does not have.

`powerjax.tasks.sandbox.bubblewrap` starts both with nothing but Python itself. Imports are few,
because the time they take is spent twice for every program.
"""

import builtins
import os
import resource
import struct
import sys
import time

from . import plain

NOT_READY = "the program's process did not start"

_LENGTH = struct.Struct(">I")

# Raised in the tests, these would end a loop: `all(map(f, xs))` would hold although `f` raised.
_NOT_RAISED = ("StopIteration", "StopAsyncIteration", "GeneratorExit")


class Lost(BaseException):
    """The program cannot be asked any more: it ended, or sent something that is no answer."""


class ProgramError(Exception):
    """The program raised an exception that is none of Python's own."""


def confine(uid, cpu_s, memory_bytes, num_processes, file_bytes):
    """Sets the limits for good, and becomes the user `uid` if that is not 0 (as root)."""
    _attempt(_go_first)
    for name, soft, hard in (
        ("CPU", cpu_s, cpu_s + 1),
        ("AS", memory_bytes, memory_bytes),
        ("NPROC", num_processes, num_processes),
        ("FSIZE", file_bytes, file_bytes),
        ("NOFILE", 64, 64),
        ("CORE", 1, 1),  # with 0 a handler of core dumps outside the sandbox would still be run
        ("MEMLOCK", 0, 0),
        ("MSGQUEUE", 0, 0),
    ):
        which = getattr(resource, f"RLIMIT_{name}", None)
        if which is not None:  # macOS lacks some limits, and refuses others
            _attempt(resource.setrlimit, which, (soft, hard))
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def _go_first():
    """Has the kernel end this process first if memory runs out in spite of the limits."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _attempt(action, *arguments):
    """Returns what `action` returns, or None if it raises."""
    try:
        return action(*arguments)
    except Exception:
        return None


def send(fd, data):
    """Writes one message: its length in four bytes, then its bytes."""
    data = _LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


def receive(fd):
    """Returns the bytes of one message; None at the end of the stream."""
    head = _read(fd, 4)
    return None if head is None else _read(fd, _LENGTH.unpack(head)[0])


def _read(fd, size):
    """Returns `size` bytes; None if the stream ends before."""
    if size > plain.MAX_BYTES:
        raise ValueError("too large")
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 16))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Remote:
    """The program as the tester sees it.

    Attributes:
      lost: (status, message) once the program cannot be asked any more; None until then.
      last: the program's last answer, for messages.
    """

    def __init__(self, requests, replies):
        self.requests, self.replies = requests, replies
        self.lost = None
        self.last = None

    def ask(self, *message):
        """Returns the value that the program answers. Raises what the program raised, or Lost."""
        data = plain.encode(message)
        if self.lost is None:
            try:
                send(self.requests, data)
                self.last = self._answer()
            except BrokenPipeError:
                self.lost = ("ended", "the program ended before its tests did")
            except Exception as error:
                self.lost = ("failed", f"the program's answer cannot be read: {error!r}"[:300])
        if self.lost is not None:
            raise Lost
        outcome, *rest = self.last
        if outcome == "value":
            return rest[0]
        name, text = rest
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and name not in _NOT_RAISED:
            exception = _attempt(kind, text)
            if exception is not None:
                raise exception
        raise ProgramError(f"{name}: {text}")

    def _answer(self):
        data = receive(self.replies)
        if data is None:
            raise BrokenPipeError
        kind, *rest = plain.decode(data)
        if (kind, len(rest)) not in (("value", 1), ("raised", 2)):
            raise ValueError("neither a value nor an exception")
        if kind == "raised" and not all(isinstance(part, str) for part in rest):
            raise ValueError("an exception without a name")
        return kind, *rest


def test(job, remote):
    """Returns (status, message) of the program `job["source"]` under the tests of `job`.

    job: the fields of a `sandbox.Program` by name. remote: the program's process, a `Remote`.
    """

    def candidate(*args, **kwargs):
        return remote.ask("call", job["entry_point"], args, kwargs)

    namespace = {"__name__": "tests"}
    try:
        exec(compile(job["setup"], "<setup>", "exec"), namespace)
        tests = compile(job["tests"], "<tests>", "exec")
    except Exception as error:
        return "broken", f"the tests do not run: {error!r}"[:300]
    namespace[job["entry_point"]] = namespace["candidate"] = candidate
    try:
        remote.ask("source", job["source"])
        exec(tests, namespace)
    except BaseException as error:
        if remote.lost is None:
            return "failed", _message(error, job["tests"], remote.last)
    return remote.lost or ("passed", "")


def _message(error, tests, last):
    """Returns what failed, in which line of the tests, and the program's last answer."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = tests.split("\n")[trace.tb_lineno - 1].strip()[:200]
        trace = trace.tb_next
    if last and last[0] == "raised":
        return f"{last[1]}: {last[2]}"[:300] + (f" in {line}" if line else "")
    if not last:
        return f"{error!r:.300}"
    answer = _attempt(repr, last[1]) or "what cannot be written"  # an integer that is too long
    return f"{error!r:.200} in {line}; the program gave {answer:.200}"


def tester(requests, replies, *limits):
    """Reads the job, tests the program, and writes "started" and then the verdict."""
    confine(*limits)
    with open(0, "rb") as file:
        job = plain.decode(file.read())
    verdicts = os.dup(1)
    os.dup2(2, 1)
    if receive(replies) != b"ready":
        sys.exit(NOT_READY)
    send(verdicts, plain.encode(("started", "")))
    send(verdicts, plain.encode(test(job, Remote(requests, replies))))
    # It waits to be killed: bubblewrap reaps a process that is killed, not one that ends by itself.
    time.sleep(60)


def program(replies, site, *limits):
    """Answers requests until there are no more."""
    requests = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.path.pop()  # the folder of this package, which the program must not import
    if site:
        sys.path.append(site)
    confine(*limits)
    send(replies, b"ready")
    module = sys.modules["program"] = type(sys)("program")
    sys.argv = ["program"]
    while (message := receive(requests)) is not None:
        send(replies, _answer(plain.decode(message), module.__dict__))
    os._exit(0)


def _answer(message, namespace):
    try:
        kind, *rest = message
        if kind == "source":
            exec(compile(rest[0], "<program>", "exec"), namespace)
            return plain.encode(("value", None))
        name, args, kwargs = rest
        if name not in namespace:
            raise NameError(f"the program does not define {name}")
        return plain.encode(("value", namespace[name](*args, **kwargs)))
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        return plain.encode(("raised", kinds[0], _attempt(_shown, error) or ""))


def _shown(error):
    return str(error)[:300]


def main(arguments):
    """Runs the process that the first argument names, with the others as its arguments."""
    role, *rest = arguments
    if role == "tester":
        tester(*map(int, rest))
    else:
        program(int(rest[0]), rest[1], *map(int, rest[2:]))

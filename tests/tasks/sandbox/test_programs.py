"""Hostile programs: each is contained, recorded as a failure, and leaves nothing behind."""

import glob
import os
import socket
import subprocess
import threading
import time
import uuid

import pytest

from powerjax.tasks import sandbox
from powerjax.tasks.sandbox import Limits, Program
from powerjax.tasks.sandbox import bubblewrap as bubblewrap_file

QUICK = Limits(wall_s=2.0, cpu_s=1)
TESTS = "assert f(1) == 2\nassert f(2) == 3"


@pytest.fixture
def left_behind(monkeypatch):
    """Marks what runs start; calling it gives the processes that are alive with the mark."""
    mark = f"MARK={uuid.uuid4().hex}"
    monkeypatch.setitem(bubblewrap_file._ENVIRONMENT, *mark.split("="))

    def alive():
        paths = []
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                with open(path, "rb") as file:
                    if mark.encode() in file.read().split(b"\0"):
                        paths.append(path)
            except OSError:
                continue
        return paths

    yield alive
    assert alive() == []


@pytest.fixture
def run(bubblewrap, left_behind):
    """Runs a program in a sandbox, and afterwards looks for what it left."""

    def run(source, tests=TESTS, limits=None, **keywords):
        return sandbox.run(Program(source, tests, "f", **keywords), limits=limits)

    return run


def test_a_right_program_passes_and_a_wrong_one_does_not(run):
    assert run("def f(x): return x + 1").passed
    verdict = run("def f(x): return 2")
    assert verdict.status == "failed"
    assert verdict.message == "AssertionError() in assert f(2) == 3; the program gave 2"
    assert verdict.isolation == "bubblewrap"
    assert run("def g(x): return x").message.startswith("NameError: the program does not define f")


def test_tests_see_their_setup_and_the_program_does_not(run):
    setup = "import math\ndef helper(x): return math.floor(x)"
    assert run("def f(x): return x + 1", "assert f(1) == helper(2.5)", setup=setup).passed
    verdict = run("def f(x): return helper(x + 1)", setup=setup)
    assert verdict.message.startswith("NameError: name 'helper' is not defined")


# Each would answer rightly once its attack has worked, and fails because it does not.
ATTACKS = {
    "reads_the_passwords": "open('/etc/passwd').read()",
    "reads_our_environment": "__import__('os').environ['SECRET']",
    "reads_an_environment": "assert 's3cret' in open('/proc/1/environ').read()",
    "reads_our_files": "open({ours!r}).read()",
    "lists_the_home_folder": "assert len(__import__('os').listdir({home!r})) > 1",
    "sees_our_process": "__import__('os').kill({pid}, 0)",
    "writes_to_the_system": "open('/usr/lib/x', 'w')",
    "writes_beside_tmp": "open('/x', 'w')",
    "writes_to_shared_memory": "open('/dev/shm/x', 'w')",
    "writes_to_our_files": "open({ours!r}, 'w').write('changed')",
    "opens_a_socket": "__import__('socket').create_connection(('127.0.0.1', {port}), 1)",
    "looks_up_a_name": "__import__('socket').getaddrinfo('example.com', 80)",
    "allocates_100_GB": "bytearray(100 << 30)",
    "allocates_bit_by_bit": "[bytearray(1 << 20) for _ in range(100_000)]",
    "writes_a_large_file": "open('/tmp/x', 'wb').write(bytes(17 << 20))",
    "fills_tmp": "[open(f'/tmp/{{i}}', 'wb').write(bytes(15 << 20)) for i in range(6)]",
    "leaves_root": "__import__('os').setuid(0)",
    "raises_its_limits": "__import__('resource').setrlimit(7, (9999, 9999))",
    "mounts": "assert __import__('ctypes').CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0",
    "recurses": "f(x)",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(run, attack, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    ours = tmp_path / "ours"
    ours.write_text("ours")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        values = dict(ours=str(ours), home=os.path.expanduser("~"), pid=os.getpid(), port=port)
        source = f"def f(x):\n    {ATTACKS[attack].format(**values)}\n    return x + 1"
        # Filling a gibibyte may take a busy machine longer than a program has.
        limits = Limits(wall_s=60, cpu_s=30) if attack == "allocates_bit_by_bit" else None
        verdict = run(source, limits=limits)
        assert verdict.status == "failed", verdict
        assert not any(
            name in verdict.message for name in ("SyntaxError", "NameError", "TypeError")
        )
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert ours.read_text() == "ours"


def test_an_endless_loop_runs_out_of_processor_time(run):
    start = time.monotonic()
    verdict = run("def f(x):\n    while True: pass", limits=Limits(wall_s=60, cpu_s=1))
    assert (verdict.status, verdict.message) == ("timeout", "its processor time is used up")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "line",
    [
        "import time; time.sleep(100)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import signal, time\n    for n in range(1, 32):\n        if n not in (9, 19):"
        " signal.signal(n, signal.SIG_IGN)\n    time.sleep(100)",
    ],
    ids=["sleeps", "stops_itself", "ignores_every_signal"],
)
def test_a_program_that_waits_runs_out_of_time(run, line):
    assert run(f"def f(x):\n    {line}", limits=QUICK).status == "timeout"


def test_a_fork_bomb_stays_small(run, left_behind):
    counts, over = [], threading.Event()

    def count():
        while not over.wait(0.05):
            counts.append(len(left_behind()))

    watcher = threading.Thread(target=count)
    watcher.start()
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    try:
        assert run(bomb, limits=QUICK).status == "timeout"
    finally:
        over.set()
        watcher.join()
    # Of each of the two sandboxes bubblewrap and its first process, the tester, and the bomb.
    assert QUICK.num_processes <= max(counts) <= QUICK.num_processes + 5


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut_off(run, stream):
    source = f"import sys\nwhile True: print('x' * 1000, file=sys.{stream})"
    assert run(source).status == "output"


def test_some_output_is_none_of_our_business(run, capfd):
    assert run("def f(x):\n    print('y' * 1000)\n    return x + 1").passed
    assert "y" not in capfd.readouterr().out


def test_children_die_with_their_parent(run, left_behind):
    source = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.fork() == 0:
        os.closerange(0, 64)
        time.sleep(600)
    os._exit(0)
"""
    assert run(source + "os.wait()\nos._exit(0)").status == "ended"
    assert left_behind() == []
    assert run(source + "def f(x): return x + 1").passed
    assert left_behind() == []


def test_killing_every_process_in_sight_kills_no_other(run):
    source = """
import os, signal
def f(x):
    for pid in {os.getppid(), 1, -1}:
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
    return 0
"""
    assert run(source).status == "failed"


def test_a_thread_that_never_ends_is_not_waited_for(run):
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()"
    start = time.monotonic()
    assert run(f"{source}\ndef f(x): return x + 1", limits=Limits(wall_s=60)).passed
    assert time.monotonic() - start < 30


def test_what_is_written_to_tmp_is_gone_by_the_next_run(run):
    name = f"/tmp/{uuid.uuid4().hex}"
    assert run(f"open({name!r}, 'w').write('x')\ndef f(x): return x + 1").passed
    assert not os.path.exists(name)
    assert run(f"import os\ndef f(x): return os.path.exists({name!r}) + x + 1").passed


def test_many_run_at_once_and_the_same_one_once(bubblewrap, left_behind):
    slow = "import time; time.sleep(1)\ndef f(x): return x + "
    programs = [Program(f"{slow}{k}", TESTS, "f") for k in (1, 2, 3, 4, 5, 1)] * 5
    start = time.monotonic()
    verdicts = sandbox.run_all(programs, num_workers=5)
    assert [verdict.passed for verdict in verdicts] == [True, False, False, False, False, True] * 5
    assert time.monotonic() - start < 4  # 5 s one after the other, 30 s if each ran each time


def test_the_sandboxes_die_with_us(bubblewrap, left_behind):
    """As when the process that grades is killed outright."""
    source = (
        "from powerjax.tasks import sandbox as s\nfrom powerjax.tasks.sandbox import bubblewrap\n"
        f"bubblewrap._ENVIRONMENT['MARK'] = {bubblewrap_file._ENVIRONMENT['MARK']!r}\n"
        "s.run(s.Program('import time; time.sleep(300)', '', 'f'), limits=s.Limits(wall_s=300))"
    )
    with subprocess.Popen([bubblewrap_file.sys.executable, "-c", source]) as process:
        deadline = time.monotonic() + 60
        # Counted once a turn: during exec a process has no environment for a moment.
        while (num_started := len(left_behind())) != 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert num_started == 6
    deadline = time.monotonic() + 10
    while left_behind() and time.monotonic() < deadline:
        time.sleep(0.05)


# Programs that stay inside the language: they run with limits alone as well.
ALWAYS_EQUAL = """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    __lt__ = __gt__ = __le__ = __ge__ = __eq__
    __hash__ = int.__hash__
class Sure:
    __eq__ = __lt__ = __gt__ = lambda self, other: True
"""
CHANGED_BUILTINS = """
import builtins
builtins.AssertionError = builtins.int = str
builtins.__build_class__ = builtins.all = builtins.isinstance = lambda *a: True
def f(x): return 0
"""
FORGED_VERDICT = """
import os, struct, sys
passed = sys.modules['confined.plain'].encode(('passed', ''))
for fd in range(3, 64):
    try: os.write(fd, struct.pack('>I', len(passed)) + passed)
    except OSError: pass
def f(x): return 0
"""
DEEP_LIST = """
def f(x):
    for _ in range(10**5): x = [x]
    return x
"""
BOMB = """
import os
class Bomb:
    def __reduce__(self): return os.system, ('echo',)
def f(x): return Bomb()
"""
SEARCH = """
import gc, inspect, sys
def f(x):
    seen = gc.get_objects() + [frame[0].f_locals for frame in inspect.stack()]
    seen += [frame.f_globals for frame in sys._current_frames().values()]
    return x + 1 if any('assert all(' in repr(one) for one in seen) else 0
"""
TRICKS = {
    "exits": "import sys; sys.exit(0)",
    "exits_when_called": "import sys\ndef f(x): sys.exit(0)",
    "exits_at_once": "import os; os._exit(0)",
    "exits_at_once_when_called": "import os\ndef f(x): os._exit(0)",
    "exits_later": "import atexit, os; atexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
    "is_equal_to_all": f"{ALWAYS_EQUAL}\ndef f(x): return Yes(7)",
    "is_not_plain": f"{ALWAYS_EQUAL}\ndef f(x): return Sure()",
    "changes_builtins": CHANGED_BUILTINS,
    "changes_the_tests": "def check(f): pass\ntests = candidate = None\ndef f(x): return 0",
    "stops_iterating": "def f(x): raise StopIteration",
    "prints_success": "print('passed\\n' * 9)\ndef f(x): print('passed', flush=True)",
    "forges_a_verdict": FORGED_VERDICT,
    "closes_everything": "import os; os.closerange(0, 64)\ndef f(x): return x + 1",
    "closes_its_output": "import os; os.close(1); os.close(2)\ndef f(x): return 0",
    "answers_without_end": "def f(x):\n    while True: yield x",
    "answers_at_length": "def f(x): return 'x' * 10**8",
    "answers_a_deep_list": DEEP_LIST,
    "answers_a_bomb": BOMB,
    "answers_a_huge_number": "def f(x): return 1 << 10**6",
    "answers_a_huge_range": "def f(x): return range(10**18)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "recurses_into_c": "import sys; sys.setrecursionlimit(10**9)\ndef f(x): return [*map(f, [x])]",
    "does_not_compile": "def f(x): return (",
    "is_not_text": "\0",
    "nests_too_deep": "(" * 5000 + ")" * 5000,
    "reads_from_its_input": "def f(x): return input()",
    "looks_for_the_answer": SEARCH,
}


@pytest.mark.parametrize("isolated", [sandbox.BUBBLEWRAP, sandbox.RLIMITS])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_does_not_pass(request, trick, isolated):
    if isolated == sandbox.BUBBLEWRAP:
        request.getfixturevalue("bubblewrap")
    alive = request.getfixturevalue("left_behind")
    program = Program(TRICKS[trick], "assert all(f(x) == x + 1 for x in (1, 2))", "f")
    verdict = sandbox.run(program, unsafe_exec=isolated == sandbox.RLIMITS)
    assert verdict.status in ("failed", "ended"), verdict
    assert verdict.isolation == isolated
    assert verdict.message.isprintable() and len(verdict.message) < 700
    assert alive() == []


def test_a_missing_bubblewrap_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^programs run in bubblewrap, .* apt-get install"):
        sandbox.run(Program("", "", "f"))
    assert sandbox.run(Program("", "", "f"), unsafe_exec=True).isolation == "rlimits"


def test_tests_that_do_not_run_are_no_failure_of_the_program():
    with pytest.raises(ValueError, match="the tests do not run: SyntaxError"):
        sandbox.run(Program("def f(x): return 1", "assert (", "f"), unsafe_exec=True)


def test_a_program_that_is_gone_fails_whatever_its_tests_make_of_it():
    tests = "try: f(1)\nexcept BaseException: pass"
    program = Program("import os\ndef f(x): os._exit(0)", tests, "f")
    assert sandbox.run(program, unsafe_exec=True).status == "ended"
    # Tests that expect an exception get it, but for those that end a loop of theirs.
    tests = "try: f([])\nexcept IndexError: pass\nelse: raise AssertionError"
    assert sandbox.run(Program("def f(x): return x[0]", tests, "f"), unsafe_exec=True).passed
    program = Program("def f(x): raise StopIteration", "assert all(map(f, (1, 2)))", "f")
    assert sandbox.run(program, unsafe_exec=True).status == "failed"

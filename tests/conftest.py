"""Options and fixtures that more than one folder of tests uses."""

import os
import signal
import tempfile
from pathlib import Path

from tests import compiling

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A shell starts background jobs with Ctrl-C ignored. Launchers that tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests run the launchers in many processes. With a cache, each program is compiled once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="powerjax-tests-")  # removed at exit
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ.update(compiling.variables())

import filelock
import jax
import pytest

# The longest files, which begin first, so that two processes end at about the same time. What
# test_quickstart.py compiles, the whole quick run of test_student.py (`quick_run`) finds compiled.
# The other files with that run stand far behind, so that no process waits for it.
_FIRST = (
    "tests/experiments/test_quickstart.py",
    "tests/sample/test_mesh.py",
    "tests/distill/test_student.py",
    "tests/test_commands.py",
    "tests/experiments/test_sample_proposal.py",
    "tests/experiments/test_rewards.py",
    "tests/distill/test_mesh.py",
    "tests/benchmarks/test_gpu.py",
    "tests/experiments/test_flywheel.py",
    "tests/test_docs.py",
)


def pytest_addoption(parser):
    parser.addoption(
        "--parity",
        action="store_true",
        help="also compare with transformers running live (needs torch)",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="every test: those marked full, and the comparisons of --parity",
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests marked `full`, unless --full was given or they are named one by one.

    The longest files come first where several processes share the tests.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {path: number for number, path in enumerate(_FIRST)}
        items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))
    named = any("::" in argument for argument in config.args)
    if config.getoption("--full") or named:
        return
    short = [item for item in items if item.get_closest_marker("full") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(short)])
    items[:] = short


@pytest.fixture(scope="module")
def optimized():
    """Compiles a module's programs with LLVM's optimizations.

    Processes that `tests/experiments/programs.py` starts with `optimized` compile as users do.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def parity(request):
    """Skips a test that runs transformers models, unless --parity was given."""
    if not (request.config.getoption("--parity") or request.config.getoption("--full")):
        pytest.skip("compares with torch live: run pytest --parity")
    pytest.importorskip("torch", reason="--parity needs torch: pip install powerjax[test] torch")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of benchmark data: POWERJAX_DATA, or else shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("POWERJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set POWERJAX_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_qwen():
    """The small model of tests/tiny.py; it has no tokenizer."""
    from tests import tiny

    return tiny.random_lm(tiny.config(), name="tiny_qwen")


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory):
    """Returns (folder, printed text) of a whole `experiments.reproduce --quick`.

    The model is the embedded one. The run is made once for all of pytest-xdist's workers.
    """
    from tests.experiments import programs

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "quick"
    with filelock.FileLock(folder.with_suffix(".lock")):
        printed = folder / "printed.txt"
        if not printed.exists():
            arguments = [*programs.QUICK, f"--out={folder / 'run'}"]
            process = programs.start("experiments.reproduce", *arguments, optimized=True)
            code, out, err = programs.end(process, timeout_s=1200)
            assert code == 0, err
            printed.write_text(out)
    return folder / "run", printed.read_text()


@pytest.fixture
def record_property(request):
    """Records a property as text, because xdist's workers cannot send numpy's numbers."""

    def record(name, value):
        request.node.user_properties.append((name, str(value)))

    return record


def pytest_terminal_summary(terminalreporter):
    """Prints what passed and failed tests measured with record_property."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    lines = [
        f"{report.nodeid.split('/')[-1]}: {name} {value}"
        for report in reports
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)

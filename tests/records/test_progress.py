"""Progress in a log: a line every half minute and one at the end; a bar where it can be redrawn."""

import io
import os
import subprocess
import sys

import pytest
import tqdm.auto
import tqdm.std

from powerjax import sample
from powerjax.records.progress import progress_bar


class Clock:
    """A clock that stands still until a test moves it on."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    now = Clock()
    monkeypatch.setattr(tqdm.std, "time", now)
    return now


class Stream(io.StringIO):
    def isatty(self):
        return False


class Terminal(io.StringIO):
    def isatty(self):
        return True


Notebook = type("OutStream", (Stream,), {"__module__": "ipykernel.iostream"})


@pytest.fixture
def log(monkeypatch, capsys):
    """What has been written to stderr, which is a file as tests run."""
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        monkeypatch.delenv(name)
    return lambda: capsys.readouterr().err


def test_a_log_gets_a_line_every_half_minute_and_one_at_the_end(log, clock):
    with progress_bar(total=800, desc="power", unit="chain") as bar:
        for i in range(800):
            clock.now += 0.125  # 100 s in all
            bar.set_postfix_str(f"{i} tok/s", refresh=False)
            bar.update()
    text = log()
    lines = text.splitlines()
    assert [line.split()[2] for line in lines] == ["240/800", "480/800", "720/800", "800/800"]
    assert lines[0] == "power: 30% 240/800 [00:30<01:10,  8.00chain/s, 239 tok/s]"
    assert "\r" not in text and text.endswith("\n")


def test_a_log_gets_its_lines_while_nothing_ends_and_after_a_burst(log, clock):
    """Chains that end all at once, after minutes without one."""
    with progress_bar(total=64, desc="power", unit="chain") as bar:
        for _ in range(500):
            clock.now += 0.5
            bar.update(0)
        bar.update(60)
        for _ in range(100):
            clock.now += 0.5
            bar.update(0)
        bar.update(4)
    done = [line.split()[2] for line in log().splitlines()]
    assert done == ["0/64"] * 8 + ["60/64"] * 2 + ["64/64"]


def test_an_iterable_is_gone_through_and_said(log, clock):
    def steps():
        for i in range(8):
            clock.now += 10
            yield i

    assert list(progress_bar(steps(), desc="training", unit="step", total=8)) == [*range(8)]
    assert [line.split()[2] for line in log().splitlines()] == ["3/8", "6/8", "8/8"]


def test_a_bar_that_did_nothing_or_is_not_wanted_says_nothing(log, clock, monkeypatch):
    for options in ({"total": 0}, {"total": 9, "initial": 9}, {"total": 3, "show": False}):
        with progress_bar(desc="grading", unit="record", **options) as bar:
            clock.now += 100
            bar.update(0) if options["total"] == 3 else None
    assert log() == ""
    monkeypatch.setattr(sys, "stderr", None)  # as without a console
    with progress_bar(total=1, desc="x", unit="y") as bar:
        bar.update()


def test_what_was_taken_up_again_has_the_rate_of_this_start(log, clock):
    with progress_bar(total=1000, initial=900, desc="distilling", unit="step") as bar:
        for _ in range(31):
            clock.now += 1
            bar.update()
    first = log().splitlines()[0]
    assert first == "distilling: 93% 930/1000 [00:30<01:10,  1.00step/s]"


def test_an_error_leaves_the_last_line(log, clock):
    with pytest.raises(KeyboardInterrupt), progress_bar(total=5, desc="a", unit="b") as bar:
        clock.now += 1
        bar.update(2)
        raise KeyboardInterrupt
    assert log().splitlines() == ["a: 40% 2/5 [00:01<00:01,  2.00b/s]"]


def test_the_environment_of_tqdm_holds():
    code = (
        "import sys, time\n"
        "from powerjax.records.progress import progress_bar\n"
        "with progress_bar(total=3, desc='a', unit='b') as bar:\n"
        "    for _ in range(3): bar.update(); time.sleep(0.02)\n"
    )

    def lines(**env):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        return run.stderr.splitlines()

    assert len(lines()) == 1
    assert len(lines(TQDM_MININTERVAL="0.001")) >= 2
    assert lines(TQDM_DISABLE="1") == []


@pytest.mark.parametrize("kind", [Terminal, Notebook])
def test_a_terminal_and_a_notebook_keep_their_bar(monkeypatch, kind):
    stream = kind()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=3, desc="a", unit="b") as bar:
        assert type(bar) is tqdm.auto.tqdm
        bar.update(3)
    assert "\ra: 100%|" in stream.getvalue()


def test_a_short_run_of_a_sampler_is_one_line_of_a_log(log, tiny_qwen):
    sample.standard(tiny_qwen, [[5, 6]], num_samples=20, max_new_tokens=4)
    (line,) = log().splitlines()
    assert line.startswith("standard: 100% 20/20 [") and "tok/s" in line


def test_all_bars_of_the_project_are_made_in_one_place():
    from tests.experiments.programs import ROOT

    files = [
        path for folder in ("powerjax", "experiments") for path in (ROOT / folder).rglob("*.py")
    ]
    with_bars = [path.name for path in files if "import tqdm" in path.read_text()]
    assert with_bars == ["progress.py"]

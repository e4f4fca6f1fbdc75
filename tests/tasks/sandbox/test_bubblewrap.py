"""A bubblewrap that cannot start: its reason is shown, whenever and however it gives it."""

import os

import pytest

from powerjax.tasks import sandbox
from powerjax.tasks.sandbox import bubblewrap, pipes, programs


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Puts a program called bwrap first on the path; its text may begin after its `--help`."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def fake(text, mode=0o755, helps=True):
        help_ = '[ "$1" = --help ] && { echo --size; exit 0; }'
        path = tmp_path / "bwrap"
        path.write_text(f"#!/bin/sh\n{help_}\n{text}\n" if helps else text)
        path.chmod(mode)
        bubblewrap.options.cache_clear()
        return path

    yield fake
    bubblewrap.options.cache_clear()


# What bubblewrap does, and the reason that must be shown.
FAILURES = {
    "gives_its_reason": ("echo 'bwrap: No permissions' >&2; exit 1", "bwrap: No permissions"),
    "exits_with_42": ("echo 'bwrap: No' >&2; exit 42", "bwrap: No"),
    "exits_with_0": ("echo 'bwrap: No' >&2", "bwrap: No"),
    "speaks_to_its_output": ("echo 'bwrap: No'; exit 1", "bwrap: No"),
    "speaks_in_lines": ("echo 'a\nbwrap: No\n\n' >&2; exit 1", "bwrap: No"),
    "speaks_in_parts": ("printf 'bwrap: ' >&2; sleep 0.02; printf 'No' >&2; exit 1", "bwrap: No"),
    "speaks_early": ("echo 'bwrap: No' >&2; sleep 0.05; exit 1", "bwrap: No"),
    "speaks_once_its_output_is_shut": ("exec >&-; sleep 0.05; echo No >&2; exit 1", "No"),
    "speaks_after_its_end": ("(sleep 0.05; echo 'bwrap: No' >&2)& exit 1", "bwrap: No"),
    "speaks_in_colours": (r"printf '\033[1mNo\377\n' >&2; exit 1", " [1mNo\ufffd"),
    "fails_for_the_program_alone": (
        "case \" $* \" in *' tester '*) exec 3<&0; exec sleep 0.1;; esac; echo No >&2; exit 1",
        "No",
    ),
    "says_nothing": ("exit 3", "its process ended with status 3 and said nothing"),
    "says_nothing_and_exits_with_0": (
        "exit 0",
        "its process ended with status 0 and said nothing",
    ),
    "is_killed": ("kill -9 $$", "its process was ended by signal 9 and said nothing"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_why_bubblewrap_does_not_start_is_said_each_time(fake, failure):
    text, reason = FAILURES[failure]
    fake(text)
    reasons = set()
    for _ in range(20):
        with pytest.raises(OSError) as raised:
            sandbox.require()
        reasons.add(str(raised.value))
    assert reasons == {f"bubblewrap does not work here: {reason}; {sandbox.UNSAFE}"}


def test_why_bubblewrap_cannot_be_run_at_all_is_said(fake):
    for text, reason in (
        ("#!/bin/sh\necho 'no libcap.so.2' >&2\nexit 127\n", "no libcap.so.2;"),
        ("#!/bin/sh\nexit 1\n", r"\S+ --help ended with status 1 and said nothing;"),
        ("#!/no/such/shell\n", ".*No such file or directory"),
        ("", ".*Exec format error"),
    ):
        fake(text, helps=False)
        with pytest.raises(OSError, match=f"^bubblewrap does not work here: {reason}"):
            sandbox.require()
    fake("#!/bin/sh\necho --help\n", helps=False)
    with pytest.raises(OSError, match=r"^bubblewrap is too old: version 0.7 or newer is needed"):
        sandbox.require()


def test_a_bubblewrap_that_is_not_executable_is_named(fake, monkeypatch, tmp_path):
    path = fake("exit 0", mode=0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermissionError, match=f"^{path} is not executable: chmod"):
        sandbox.require()


def test_a_bubblewrap_that_hangs_is_not_waited_for(fake, monkeypatch):
    monkeypatch.setattr(programs, "_START_S", 0.5)
    monkeypatch.setattr(pipes, "_LAST_WORDS_S", 0.1)
    fake("echo 'bwrap: waiting' >&2; exec sleep 60")
    with pytest.raises(OSError, match=r"^bubblewrap does not work here: bwrap: waiting;"):
        sandbox.require()
    fake("exec sleep 60")
    with pytest.raises(OSError, match="its process has not ended, and said nothing;"):
        sandbox.require()

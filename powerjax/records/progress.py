"""Progress bars: redrawn in a terminal or a notebook, a line every half minute in a log file.

All bars of the project are made here. tqdm's own environment variables hold: TQDM_DISABLE=1 shows
none, TQDM_MININTERVAL=300 leaves five minutes between two lines.
"""

import functools
import os
import sys
from collections.abc import Iterable

_LOG_INTERVAL_S = 30.0
_LOG_LINE = (
    "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)


def progress_bar(
    iterable: Iterable | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    show: bool = True,
):
    """A tqdm bar on stderr, drawn as the stream allows (`redraws`).

    Args:
      iterable: what to go through; None: its `update` is called by hand.
      desc: its name.
      unit: what is counted.
      total: how many there will be; None: the length of `iterable`.
      initial: how many are done already.
      show: False shows nothing.
    """
    options = {"desc": desc, "unit": unit, "total": total, "initial": initial}
    if not show or sys.stderr is None:
        options["disable"] = True  # given in this case only, so that else TQDM_DISABLE decides
    if redraws(sys.stderr):
        from tqdm.auto import tqdm  # here, because it is slow to import

        return tqdm(iterable, **options)
    if "TQDM_MININTERVAL" not in os.environ:
        options["mininterval"] = _LOG_INTERVAL_S
    # With every update the clock is looked at, and the rate is that of the whole run.
    return _lines()(iterable, **options, miniters=0, smoothing=0, bar_format=_LOG_LINE)


def redraws(stream) -> bool:
    """Whether a line of this stream can be drawn over: a terminal's and a notebook's can."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return is_terminal or type(stream).__module__.startswith("ipykernel")


@functools.cache
def _lines():
    """The class of bars that write one line after another."""
    from tqdm.std import tqdm

    class Lines(tqdm):
        monitor_interval = 0  # no thread that redraws

        def display(self, msg=None, pos=None):
            text = str(self) if msg is None else msg
            if text and hasattr(self, "start_t"):  # not the empty bar that tqdm begins with
                self.fp.write(f"{text}\n")
                self.fp.flush()

        def close(self):
            if not getattr(self, "disable", True):
                self.leave = False  # tqdm would write the last line again
                if self.n > self.last_print_n:
                    self.refresh()
            super().close()

    return Lines

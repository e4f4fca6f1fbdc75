"""Progress bars: one line that is redrawn in a terminal or a notebook, lines in a log file.

In a log file a bar writes a line every half minute. All bars of the project are made here. tqdm's
own environment variables apply: TQDM_DISABLE=1 shows no bars, and TQDM_MININTERVAL=300 leaves five
minutes between two lines.
"""

import functools
import os
import sys
from collections.abc import Iterable
from typing import Any

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
    """Returns a tqdm bar that writes to stderr in the way that stderr allows (`redraws`).

    Args:
      iterable: what to go through; None where the caller calls the bar's `update`.
      desc: the bar's name.
      unit: what is counted, such as "chain".
      total: how many units there will be; None for the length of `iterable`.
      initial: how many units are done already.
      show: False shows nothing.
    """
    options: dict[str, Any] = {"desc": desc, "unit": unit, "total": total, "initial": initial}
    if not show or sys.stderr is None:
        options["disable"] = True  # absent otherwise, so that TQDM_DISABLE decides
    if redraws(sys.stderr):
        from tqdm.auto import tqdm  # here, because it is slow to import

        return tqdm(iterable, **options)
    if "TQDM_MININTERVAL" not in os.environ:
        options["mininterval"] = _LOG_INTERVAL_S
    # miniters=0 looks at the clock at every update; smoothing=0 shows the rate of the whole run.
    return _lines()(iterable, **options, miniters=0, smoothing=0, bar_format=_LOG_LINE)


def redraws(stream) -> bool:
    """Whether a line of this stream can be redrawn, as in a terminal and in a notebook."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return is_terminal or type(stream).__module__.startswith("ipykernel")


@functools.cache
def _lines():
    """Returns the class of bars that write one line after another."""
    from tqdm.std import tqdm

    class Lines(tqdm):
        monitor_interval = 0  # tqdm then starts no thread that redraws

        def display(self, msg=None, pos=None):
            text = str(self) if msg is None else msg
            if text and hasattr(self, "start_t"):  # tqdm first displays a bar of nothing
                self.fp.write(f"{text}\n")
                self.fp.flush()

        def close(self):
            if not getattr(self, "disable", True):
                self.leave = False  # tqdm would write the last line again
                if self.n > self.last_print_n:
                    self.refresh()
            super().close()

    return Lines

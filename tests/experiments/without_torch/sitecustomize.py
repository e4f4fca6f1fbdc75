"""Hides torch from the launchers' processes: transformers imports it wherever it is installed.

It has no part in what a launcher does, and takes each of a hundred processes two seconds. It is not
found, and has no entry in sys.modules: SciPy takes a None there for torch itself.
"""

import sys
from importlib.machinery import PathFinder


class WithoutTorch(PathFinder):
    """Finds what is on the path, but not torch."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


sys.meta_path[:] = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]

#!/usr/bin/env bash
# bash launch/test.sh [--full] [--parity] [pytest arguments]
#
# Makes .venv, installs powerjax[test] into it, checks the code's style and layout with ruff, and runs
# the short tests, in about eight minutes on two quiet cores. --full runs every test, in about
# twenty, and installs what the longer ones need: mkdocs, and torch (for CPUs), with which they
# compare with transformers itself. --parity runs the short tests and these comparisons.
#
# Two processes share the tests, file by file; -n 0 runs them in one process, as --pdb needs it. The
# ten slowest tests are named at the end.
#
# PYTHON=python3.12 bash launch/test.sh makes .venv with that interpreter, which has to be 3.11 or
# newer. A .venv that is there keeps its own: remove it to change the version. POWERJAX_DATA=FOLDER
# is where the tests that read published data find it; they are skipped without.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "launch/test.sh"
  exit
fi

if [[ " $* " == *" --full "* ]]; then
  install test parity docs
elif [[ " $* " == *" --parity "* ]]; then
  install test parity
else
  install test
fi
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check powerjax tests experiments benchmarks || {
  say "ruff would lay out the files above otherwise:" \
    ".venv/bin/python -m ruff format powerjax tests experiments benchmarks"
  exit 1
}
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 "$@"

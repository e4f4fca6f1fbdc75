#!/usr/bin/env bash
# bash launch/test.sh [--parity] [pytest arguments]
#
# Makes .venv, installs powerjax[test] into it, and runs ruff and the tests. --parity also installs
# torch (for CPUs), and so runs the tests that compare with transformers itself. Two processes share
# the tests, file by file; -n 0 runs them in one process, as --pdb needs it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "launch/test.sh"
  exit
fi

if [[ " $* " == *" --parity "* ]]; then
  install test parity
else
  install test
fi
.venv/bin/python -m ruff check .
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"

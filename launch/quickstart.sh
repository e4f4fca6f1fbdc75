#!/usr/bin/env bash
# bash launch/quickstart.sh [--flag=value ...]
#
# Makes .venv, installs powerjax into it, and runs experiments/quickstart.py with the flags given.
# PYTHON=python3.12 picks the interpreter; EXTRAS=cuda (or tpu) adds JAX for that accelerator.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "launch/quickstart.sh"
  if ! compgen -G ".venv/.installed-*" >/dev/null; then # answer without a long install
    "$(find_python)" -c 'import ast; print(ast.get_docstring(ast.parse(open(
"experiments/quickstart.py").read())))'
    exit
  fi
fi

install
exec .venv/bin/python -m experiments.quickstart "$@"

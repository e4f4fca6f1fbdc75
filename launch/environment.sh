# Sourced by the other scripts: makes .venv in the repository, with this package installed in it.
#
# PYTHON=python3.12 picks the interpreter that .venv is made with. A .venv that is there keeps its own:
# a PYTHON of another version is refused. EXTRAS=cuda (or tpu) adds JAX for that accelerator. With
# cuda, the driver decides between CUDA 13 and CUDA 12 (EXTRAS=cuda12 insists on the latter).

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "needs Python 3.11 or newer with its venv module, and found none among:" \
    "${PYTHON:-python3 python3.13 python3.12 python3.11 python}. Install one, or set PYTHON."
  return 1
}

# check_python: refuses a PYTHON whose version is not that of .venv, which would be ignored.
check_python() {
  local python wanted here
  local version='import sys; print("%d.%d" % sys.version_info[:2])'
  if [[ -z "${PYTHON:-}" ]]; then return; fi
  python=$(find_python) || return 1
  wanted=$("$python" -c "$version")
  here=$(.venv/bin/python -c "$version")
  if [[ "$wanted" != "$here" ]]; then
    say "PYTHON=$PYTHON is Python $wanted, and .venv was made with Python $here. To change it," \
      "remove it first: rm -r .venv. To keep it, run this without PYTHON."
    return 1
  fi
}

# cuda_extra: prints the extra of setup.py that suits this machine's NVIDIA driver, and says why.
# CUDA 13 needs driver 580 or newer; many clusters have older ones, which run CUDA 12.
cuda_extra() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || true
  if [[ ! "$driver" =~ ^[0-9]+\. ]]; then
    say "no NVIDIA driver answers here: JAX for CUDA 13 (EXTRAS=cuda12 for drivers below 580)"
    echo cuda
  elif ((${driver%%.*} < 580)); then
    say "NVIDIA driver $driver is below 580: JAX for CUDA 12"
    echo cuda12
  else
    say "NVIDIA driver $driver: JAX for CUDA 13"
    echo cuda
  fi
}

# keep_bytecode: where Python may write no bytecode beside its sources, lets it keep it in .venv.
# Compiling all packages at installing takes pip most of a minute, and every process that keeps
# nothing compiles again what it imports.
keep_bytecode() {
  if [[ -z "${PYTHONDONTWRITEBYTECODE:-}" ]]; then return; fi
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX="$PWD/.venv/bytecode"
}

# install [EXTRA...]: makes .venv if there is none, and installs unless setup.py is unchanged since
# these extras were installed. Fails where PYTHON is another version than that of .venv.
install() {
  local extras python stamp
  keep_bytecode
  extras=" $(echo "$* ${EXTRAS:-}" | tr ',' ' ') "
  if [[ "$extras" == *" cuda "* ]]; then extras=${extras/ cuda / $(cuda_extra) }; fi
  extras=$(echo "$extras" | xargs | tr ' ' ',')
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || return 1
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  else
    check_python || return 1
  fi
  stamp=".venv/.installed-${extras:-core}"
  if [[ "$(cat "$stamp" 2>/dev/null)" == "$(cksum setup.py)" ]]; then return; fi
  say "installing powerjax${extras:+[$extras]} into .venv (a few minutes on a new machine)"
  if [[ "$extras" == *parity* ]]; then
    # Installed before anything that depends on torch, and pinned to this version: a torch without a
    # version would bring gigabytes of CUDA.
    .venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check torch==2.13.0
  fi
  .venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    -e ".${extras:+[$extras]}"
  cksum setup.py >"$stamp"
}

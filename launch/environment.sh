# Makes or reuses the virtual environment; sourced by the other scripts with the wanted extras.
# PYTHON picks the interpreter, VENV the folder. Ends with the environment active.

fail() {
  echo "error: $*" >&2
  exit 1
}

# use_environment [EXTRA]: an environment that holds this package, current with its requirements.
use_environment() {
  local extra="${1:-}" python="${PYTHON:-python3}" venv="${VENV:-.venv}" wanted stamp
  if [ ! -x "$venv/bin/python" ]; then
    "$python" -c '' 2>/dev/null ||
      fail "no working '$python' here; install Python 3.11 or newer, or name one: PYTHON=python3.12 bash $0"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      fail "'$python' is older than Python 3.11; name a newer one: PYTHON=python3.12 bash $0"
    echo "== making the environment $venv with $("$python" --version)"
    "$python" -m venv "$venv" ||
      fail "'$python' cannot make virtual environments; install its venv module (python3-venv)"
  fi
  wanted="$extra $(cat requirements.txt pyproject.toml | cksum) $PWD"
  stamp="$venv/bioclip2_jax.stamp${extra:+.$extra}"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "== installing the Python packages (a few minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable ".${extra:+[$extra]}" ||
      fail "the Python packages could not be installed; see pip's message above"
    echo "$wanted" >"$stamp"
  fi
  # shellcheck disable=SC1091
  source "$venv/bin/activate"
}

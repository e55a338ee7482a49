# shellcheck shell=bash
# Makes or reuses the virtual environment; sourced by the other scripts.
# PYTHON picks the interpreter, VENV the folder. Ends with the environment active, in the checkout.

fail() {
  echo "error: $*" >&2
  exit 1
}

usage_error() {
  echo "error: $*; bash $0 --help explains" >&2
  exit 2
}

# absolute PATH: the same place, seen from any folder.
absolute() {
  case "$1" in
    /*) echo "$1" ;;
    *) echo "$PWD/$1" ;;
  esac
}

# version_of PYTHON: as in "3.12"; fails where it does not run.
version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_supported() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Sets `python`: PYTHON, else the first usual name that is new enough.
pick_python() {
  local hint="name a newer one: PYTHON=python3.12 bash $0" name
  python="${PYTHON:-python3}"
  case "$python" in */*) python="$(absolute "$python")" ;; esac
  if [ -z "${PYTHON:-}" ]; then
    for name in python3 python3.13 python3.12 python3.11; do
      if is_supported "$name"; then
        python="$name"
        break
      fi
    done
  fi
  version_of "$python" >/dev/null ||
    fail "no working '$python' here; install Python 3.11 or newer, or $hint"
  is_supported "$python" || fail "'$python' is older than Python 3.11; $hint"
}

# make_environment PYTHON VENV [OPTIONS of venv]
make_environment() {
  echo "== making the environment $2 with $("$1" --version)"
  if ! "$1" -m venv "${@:3}" "$2"; then
    rm -f "$2/bin/python" # half of one must not be reused
    fail "'$1' cannot make the environment $2; its venv module (python3-venv) or the right to write may be missing"
  fi
  touch "$2/bioclip2_jax.stamp" # these scripts may make it anew
}

# cuda_extra [GUESS]: the extra of this package that suits the GPUs and their driver. Where there are
# none it fails, or with GUESS takes the newest.
cuda_extra() {
  local found driver capability
  if ! found="$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null)"; then
    [ -n "${1:-}" ] ||
      fail "nvidia-smi finds no GPU here; install NVIDIA's driver, or train on the CPU with bioclip2 train"
    found="999.0, 99.0"
  fi
  driver="$(cut -d. -f1 <<<"$found" | sort -n | head -1)"
  capability="$(sed 's/.*, *//; s/\.//' <<<"$found" | sort -n | head -1)"
  # CUDA 13 needs driver 580 and leaves out GPUs older than compute capability 7.5.
  if [ "$driver" -ge 580 ] && [ "$capability" -ge 75 ]; then
    echo cuda13
  elif [ "$driver" -ge 525 ]; then
    echo cuda12
  else
    fail "NVIDIA's driver $driver is too old for JAX; install 525 or newer"
  fi
}

# show COMMAND ...: as it would be typed.
show() {
  local word line=""
  for word; do
    case "$word" in
      "" | *[!a-zA-Z0-9_=+:,./@-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line+=" $word"
  done
  echo "${line:1}"
}

# show_environment [EXTRA]: what use_environment runs where the packages are not yet installed.
show_environment() {
  local root venv python
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  venv="$(absolute "${VENV:-$root/.venv}")"
  if [ ! -x "$venv/bin/python" ]; then
    pick_python
    show "$python" -m venv "$venv"
  fi
  show cd "$root"
  show "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
  show source "$venv/bin/activate"
}

# use_environment [EXTRA[,EXTRA...]]: an environment that holds this package with all that it and the
# extras need. One that is complete is used as it is, whoever made it, and needs no network.
use_environment() {
  local extra="${1:-}" root venv python lacking
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  venv="$(absolute "${VENV:-$root/.venv}")"
  if [ ! -x "$venv/bin/python" ]; then
    pick_python
    make_environment "$python" "$venv"
  elif [ -n "${PYTHON:-}" ]; then
    pick_python
    if [ "$(version_of "$python")" != "$(version_of "$venv/bin/python")" ]; then
      # Only what these scripts made is made anew; another's environment is left alone.
      compgen -G "$venv/bioclip2_jax.stamp*" >/dev/null ||
        fail "$venv is not Python $(version_of "$python"); name another folder: VENV=DIR bash $0"
      make_environment "$python" "$venv" --clear
    fi
  fi
  cd "$root" || fail "cannot enter $root"
  if ! lacking="$("$venv/bin/python" launch/missing.py "$extra" 2>/dev/null)" || [ -n "$lacking" ]; then
    echo "== installing the Python packages (a few minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable ".${extra:+[$extra]}" ||
      fail "the Python packages could not be installed (missing: $(paste -sd, <<<"${lacking:-all}"))." \
        "Is there a network? pip's message is above. For machines without one, run where there is" \
        "one, on the same file system: bash launch/install.sh${extra:+ $extra}"
  fi
  # shellcheck disable=SC1091
  source "$venv/bin/activate"
}

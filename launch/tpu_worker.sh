#!/usr/bin/env bash
# What tpu_pod.sh runs on the workers of a TPU slice, in the code it has brought there:
#   bash launch/tpu_worker.sh install EXTRA | start OPTIONS OF bioclip2 train | status |
#     follow LINES | stop | end
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"
source "$here/training.sh"
# log; lock, held while a training runs; pid; stop, there if it was told to; end, how it ended
state="$HOME/bioclip2_jax.run"
export VENV="$HOME/bioclip2_jax.venv"
mkdir -p "$state"

is_running() {
  ! flock --nonblock "$state/lock" true
}

# The environment. The machine's own Python may be too old; uv brings another.
install() {
  if [ ! -x "$VENV/bin/python" ] && ! (pick_python) 2>/dev/null; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    PYTHON="$(python3 -m uv python find 3.12)"
  fi
  use_environment "$1"
}

# The training, detached from the caller's session.
start() {
  exec 9>"$state/lock"
  if ! flock --nonblock 9; then
    echo "a training is already running here" >&2
    return
  fi
  rm -f "$state/end" "$state/stop"
  nohup setsid bash "$here/tpu_worker.sh" run "$@" </dev/null >>"$state/log" 2>&1 &
  echo $! >"$state/pid"
}

# Only for `start`: the training itself, which inherits the lock.
run() {
  trap 'echo "${end:-ended 1}" >"$state/end.part" && mv "$state/end.part" "$state/end"' EXIT
  arguments=("$@")
  find_workdir
  # shellcheck disable=SC1091
  source "$VENV/bin/activate"
  cd "$here/.."
  keep_training setsid bioclip2 train "${arguments[@]}"
  if [ "$code" -eq 0 ] && ! is_done; then code=143; fi # told to stop, by us or by the machine
  end="ended $code"
  if [ "$code" -eq 143 ] && [ -f "$state/stop" ]; then end="stopped"; fi
}

# Prints "HOST: " and "running", "ended CODE" (0 where the last step is saved), "stopped" by `stop`, or
# "none" where nothing was started or the machine went down at once.
status() {
  local said=none
  if is_running; then
    said=running
  elif [ -s "$state/end" ]; then
    said="$(cat "$state/end")"
  fi
  echo "$(uname -n): $said"
}

# Prints the last LINES of the log, and what comes, until the training ends.
follow() {
  touch "$state/log"
  tail -n "$1" -F "$state/log" 2>/dev/null &
  while is_running; do sleep 2; done
  sleep 2 # for the last lines
  kill "$!"
}

# Has the training saved and ended, for good.
stop() {
  is_running || fail "no training is running here"
  touch "$state/stop"
  kill -TERM "$(cat "$state/pid")"
}

# Ends what is left of a training that cannot go on, unsaved, and its restarts with it.
end() {
  local keeper training
  is_running || return 0
  keeper="$(cat "$state/pid")"
  training="$(pgrep -P "$keeper" || true)" # leads a group of its own
  kill -KILL "$keeper" ${training:+"-$training"} 2>/dev/null || true
  flock --wait 60 "$state/lock" true || fail "the training on $(uname -n) does not end"
}

case "${1:-}" in
  install | start | run | status | follow | stop | end) "$@" ;;
  *) usage_error "say install, start, status, follow, stop or end" ;;
esac

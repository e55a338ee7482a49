# shellcheck shell=bash disable=SC2034
# What the scripts that start a training share; sourced by them.
#
# The exit codes of `bioclip2 train`: 0 done, or told to stop and saved; 1 failed; 2 a wrong call;
# 4 stuck.

# take_options OPTIONS: sets `dry_run`, `arguments` (those of `bioclip2 train`) and `workdir`.
take_options() {
  local argument
  dry_run="" arguments=()
  for argument; do
    case "$argument" in
      -h | --help) help && exit ;;
      --dry-run) dry_run=yes ;;
      *) arguments+=("$argument") ;;
    esac
  done
  find_workdir
}

# find_workdir: sets `workdir`, as `arguments` name it.
find_workdir() {
  local argument previous=""
  workdir=""
  for argument in "${arguments[@]+"${arguments[@]}"}"; do
    case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac
    [ "$previous" != --workdir ] || workdir="$argument"
    previous="$argument"
  done
  [ -n "$workdir" ] || usage_error "--workdir=DIR is missing, the folder of the run"
}

# bucket_extra: what the paths in `arguments` need beside another extra.
bucket_extra() {
  case "${arguments[*]}" in *gs://*) echo ",gcs" ;; esac
}

# ---- How far the run is

bucket() {
  python "$(dirname "${BASH_SOURCE[0]}")/bucket.py" "$1" "$workdir"
}

# newest_checkpoint: the step of the newest in `workdir`, 0 where there is none.
newest_checkpoint() {
  local path newest=0
  case "$workdir" in gs://*) bucket newest && return ;; esac
  for path in "$workdir"/checkpoints/*; do
    path="${path##*/}"
    case "$path" in *[!0-9]*) continue ;; esac
    [ "$path" -le "$newest" ] || newest="$path"
  done
  echo "$newest"
}

# is_done: whether the last step is saved.
is_done() {
  case "$workdir" in gs://*) bucket "done" ;; *) [ -f "$workdir/done.json" ] ;; esac
}

# ---- Running it

# is_worth_another_start: after an end with `code`. A wrong call fails every time; a crash must have
# got on since the start. What was stuck may have been unlucky, but not three times.
idle_starts=0
is_worth_another_start() {
  local before="$newest"
  newest="$(newest_checkpoint)"
  idle_starts=$((newest > before ? 0 : idle_starts + 1))
  case "$code" in
    0 | 2) return 1 ;;
    4) [ "$idle_starts" -lt 3 ] ;;
    *) [ "$idle_starts" -eq 0 ] ;;
  esac
}

# await PID: sets `code`, its exit code. The caller's traps count what they catch in `signals`.
await() {
  local seen
  while :; do
    seen=$signals code=0
    wait "$1" || code=$?
    [ "$seen" -ne "$signals" ] || break # else a signal ended the wait, not the process
  done
}

# start_training COMMAND ...: runs it once; sets `code`. SIGTERM and Ctrl-C reach the training, which
# saves and stops; `signals` counts them.
signals=0
start_training() {
  trap 'signals=$((signals + 1)); forward_signal' TERM INT
  "$@" &
  child=$!
  forward_signal
  await "$child"
  child=""
}

# keep_training COMMAND ...: until it ends well, is told to stop, or is not worth another start; sets
# `code`, and the checkpoints `begun` and `newest`.
keep_training() {
  begun="$(newest_checkpoint)"
  newest="$begun"
  start_training "$@"
  while is_worth_another_start && [ "$signals" -eq 0 ]; do
    echo "== the training ended with code $code, after checkpoint $newest; starting it again" >&2
    start_training "$@"
  done
}

# forward_signal: tells the training once for each signal that came.
told=0 child=""
forward_signal() {
  if [ -n "$child" ] && [ "$told" -lt "$signals" ]; then
    told=$signals
    kill -TERM "$child" 2>/dev/null || true
  fi
}

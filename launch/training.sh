# shellcheck shell=bash
# What the scripts that start a training share; sourced by them.

usage_error() {
  echo "error: $*; bash $0 --help explains" >&2
  exit 2
}

# shellcheck disable=SC2034
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

# newest_checkpoint: the step of the newest in `workdir`, 0 where there is none.
newest_checkpoint() {
  local path newest=0
  for path in "$workdir"/checkpoints/*; do
    path="${path##*/}"
    case "$path" in *[!0-9]*) continue ;; esac
    [ "$path" -le "$newest" ] || newest="$path"
  done
  echo "$newest"
}

# is_worth_another_start CODE BEFORE: whether a run that ended with CODE, and whose newest checkpoint
# was BEFORE when it started, failed but got on. A wrong call (2) fails every time.
is_worth_another_start() {
  [ "$1" -ne 0 ] && [ "$1" -ne 2 ] && [ "$(newest_checkpoint)" -gt "$2" ]
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

# keep_training: `bioclip2 train` until it ends well, is told to stop, or fails without a new
# checkpoint; sets `code`. SIGTERM and Ctrl-C reach the training, which saves and stops.
keep_training() {
  local before
  signals=0 told=0 child=""
  trap 'signals=$((signals + 1)); forward_signal' TERM INT
  while :; do
    before="$(newest_checkpoint)"
    setsid bioclip2 train "${arguments[@]}" & # setsid: the terminal's Ctrl-C is not to reach it too
    child=$!
    forward_signal
    await "$child"
    child=""
    [ "$signals" -eq 0 ] && is_worth_another_start "$code" "$before" || return 0
    echo "== the training ended with code $code, after checkpoint $(newest_checkpoint);" \
      "starting it again" >&2
  done
}

forward_signal() {
  if [ -n "$child" ] && [ "$told" -lt "$signals" ]; then
    told=$signals
    kill -TERM "$child" 2>/dev/null || true
  fi
}

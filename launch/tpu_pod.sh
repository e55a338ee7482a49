#!/usr/bin/env bash
# Trains on Cloud TPU slices, from the machine where `gcloud` is; see --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
source "$here/environment.sh"
source "$here/training.sh"

help() {
  cat <<END
bash launch/tpu_pod.sh --name NAME --zone ZONE --accelerator TYPE [OPTIONS] -- OPTIONS OF bioclip2 train
bash launch/tpu_pod.sh --name NAME --zone ZONE [--slices N] --stop

Trains on one or several Cloud TPU slices. Reuses the TPU VM called NAME or requests it as a queued
resource and waits; copies this checkout's last commit to all its workers, makes the environment
there, starts \`bioclip2 train\` on each and follows it. When a slice is preempted or fails, it is
requested anew and the training goes on from its newest checkpoint. The training does not depend on
this script: end it with Ctrl-C at any time, and call it again to follow. Exit code 0 when the last
step is saved, otherwise 1.

  --name NAME         of the queued resource and its TPU VM (of several slices: NAME-0, NAME-1, ...)
  --zone ZONE         for example us-west4-a
  --accelerator TYPE  for example v5litepod-256, v5p-128, v6e-256
  --version VERSION   of the TPU VM's software; by default the one for the accelerator
  --project PROJECT   by default gcloud's
  --slices N          so many slices, each of TYPE; give --config.mesh.slices=N too
  --spot              spot capacity: cheap, may be preempted at any time
  --setup COMMAND     run on every worker before each start, for example to mount the data
  --delete            delete the TPUs once the last step is saved
  --stop              have a running training saved and stopped; the TPUs stay
  --dry-run           print what would be run, and run nothing

Paths are those of the workers, where the training runs in ~/bioclip2_jax. --workdir and the data must
be on a file system that all of them share. Example:
  bash launch/tpu_pod.sh --name tol --zone us-west4-a --accelerator v5litepod-256 --spot \\
    --setup 'mountpoint -q /mnt/tol || sudo mount -o X-mount.mkdir 10.0.0.2:/tol /mnt/tol' -- \\
    --config=configs/bioclip2_vitl14.py --config.data.dir=/mnt/tol/data --workdir=/mnt/tol/run
END
}

# ---- Options

name="" zone="" accelerator="" version="" project="" setup=""
slices=1 spot="" delete="" stop="" dry_run=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) help && exit ;;
    --spot | --delete | --stop) declare "${1#--}=yes" ;;
    --dry-run) dry_run=yes ;;
    --) break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    --name | --zone | --accelerator | --version | --project | --slices | --setup)
      [[ $# -gt 1 && "$2" != --* ]] || usage_error "$1: its value is missing"
      declare "${1#--}=$2"
      shift
      ;;
    *) usage_error "$1: unknown; the options of bioclip2 train come after --" ;;
  esac
  shift
done
arguments=("${@:2}")
[ -n "$name" ] || usage_error "--name NAME is missing"
[ -n "$zone" ] || usage_error "--zone ZONE is missing"
[[ "$slices" =~ ^[1-9][0-9]*$ ]] || usage_error "--slices $slices: not a number of slices"
nodes=("$name")
if [ "$slices" -gt 1 ]; then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi
where=(--zone="$zone" ${project:+--project="$project"})
if [ -z "$stop" ]; then
  [ -n "$accelerator" ] || usage_error "--accelerator TYPE is missing"
  find_workdir
  if [ -z "$version" ]; then
    case "$accelerator" in
      v4-*) version=tpu-ubuntu2204-base ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) usage_error "--accelerator $accelerator: give its software with --version, too" ;;
    esac
  fi
fi
if [ -z "$dry_run" ]; then
  command -v gcloud >/dev/null || fail "gcloud is not installed here; see https://cloud.google.com/sdk"
fi

# ---- gcloud

# run COMMAND ...: runs it, or prints it.
run() {
  if [ -n "$dry_run" ]; then show "$@"; else "$@"; fi
}

# on NODE WORKER COMMAND: runs a shell command there.
on() {
  run gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" --quiet --worker="$2" --command="$3"
}

# state_of KIND NODE FIELD: as gcloud names it, ABSENT, or UNKNOWN where gcloud fails.
state_of() {
  local answer
  if answer="$(gcloud compute tpus "$1" describe "$2" "${where[@]}" --format="value($3)" 2>&1)"; then
    tail -n 1 <<<"$answer"
  elif grep -q NOT_FOUND <<<"$answer"; then
    echo ABSENT
  else
    echo "gcloud cannot tell the state of $2: $answer" >&2
    echo UNKNOWN
  fi
}

# state: READY where all slices are; otherwise of the first that is not, or of its request.
state() {
  local node found
  for node in "${nodes[@]}"; do
    found="$(state_of tpu-vm "$node" state)"
    [ "$found" = READY ] || break
  done
  [ "$found" != ABSENT ] || found="$(state_of queued-resources "$name" state.state)"
  echo "$found"
}

# ---- Slices

request() {
  local layout=(--node-id="$name")
  [ "$slices" -eq 1 ] || layout=(--node-count="$slices" --node-prefix="$name")
  run gcloud compute tpus queued-resources create "$name" "${where[@]}" --quiet "${layout[@]}" \
    --accelerator-type="$accelerator" --runtime-version="$version" ${spot:+--spot}
}

# remove: the request with its slices, or slices that were made without one.
remove() {
  local node
  if [ -n "$dry_run" ] || [ "$(state_of queued-resources "$name" state.state)" != ABSENT ]; then
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --quiet --force
    return
  fi
  for node in "${nodes[@]}"; do
    [ "$(state_of tpu-vm "$node" state)" = ABSENT ] ||
      gcloud compute tpus tpu-vm delete "$node" "${where[@]}" --quiet
  done
}

# provide: returns when all slices are ready, requesting them (anew) where that is needed.
been_ready="" requested=""
provide() {
  local now before=""
  while :; do
    now="$(state)"
    [ "$now" = "$before" ] || echo "== $name: $now" >&2
    before="$now"
    case "$now" in
      READY)
        been_ready=yes requested=""
        return
        ;;
      UNKNOWN) [ -n "$been_ready" ] || exit 1 ;;
      ABSENT) request && requested=yes ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED)
        [ -z "$requested" ] || fail "the request was refused; this tells why: $(show \
          gcloud compute tpus queued-resources describe "$name" "${where[@]}")"
        remove
        ;;
    esac
    sleep 30
  done
}

# ---- Training

worker="bioclip2_jax/launch/tpu_worker.sh"

# status: of the training, on the first worker; empty where that cannot be reached.
status() {
  on "${nodes[0]}" 0 "if [ -f $worker ]; then bash $worker status; else echo none; fi" 2>/dev/null |
    grep -E '^(running|none|ended [0-9]+)$' || true
}

# start: copies the code, makes the environments and starts; fails where one worker does.
start() {
  local node package="bioclip2_jax-$name.tar.gz" local_package
  local_package="${TMPDIR:-/tmp}/$package"
  run git -C "$root" archive --prefix=bioclip2_jax/ --output="$local_package" HEAD || return
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp "$local_package" "$node:" "${where[@]}" --quiet \
      --worker=all || return
    [ -z "$setup" ] || on "$node" all "$setup" || return
    on "$node" all "rm -rf bioclip2_jax && tar xzf $package && bash $worker install" || return
  done
  for node in "${nodes[@]}"; do
    on "$node" all "$(show bash "$worker" start "${arguments[@]}")" || return
  done
}

# start_patiently: a new machine may not answer at once.
start_patiently() {
  local attempt
  for attempt in 1 2 3 4 5; do
    if start; then return; fi
    echo "== $name: attempt $attempt to start the training failed" >&2
    sleep 30
  done
  fail "the training could not be started on $name; the reason is above"
}

follow() {
  on "${nodes[0]}" 0 "bash $worker follow" || true
}

if [ -n "$stop" ]; then
  on "${nodes[0]}" 0 "bash $worker stop"
  exit
fi
if [ -n "$dry_run" ]; then
  request
  start
  follow
  [ -z "$delete" ] || remove
  exit
fi
git -C "$root" diff --quiet HEAD || echo "note: what is not committed is not copied" >&2
provide
if [ "$(status)" = running ]; then
  echo "== $name: a training is running there; following it" >&2
else
  start_patiently
fi
while :; do
  follow
  found="$(status)"
  case "$found" in
    "ended 0")
      echo "== $name: the training has ended" >&2
      [ -z "$delete" ] || remove
      exit
      ;;
    ended*) fail "the training on $name ended with code ${found#ended }, its log is above; the TPUs stay" ;;
  esac
  sleep 10
  provide
  [ "$(status)" != none ] || start_patiently
done

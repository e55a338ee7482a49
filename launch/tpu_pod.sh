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
there, starts \`bioclip2 train\` on each, follows the first and looks at all. A worker starts a
training that crashed or was stuck (exit code 4) again. When a slice is preempted or fails, it is
requested anew; when a machine has restarted, or some have ended for a quarter of an hour while others
run, all are started again; the training then goes on from its newest checkpoint. It does not depend
on this script: end it with Ctrl-C at any time, and call it again to follow. Exit code 0 when the
last step is saved or --stop was obeyed, 2 for a wrong call, otherwise 1.

  --name NAME         of the queued resource and its TPU VM (of several slices: NAME-0, NAME-1, ...)
  --zone ZONE         for example us-west4-a
  --accelerator TYPE  for example v5litepod-256, v5p-128, v6e-256
  --version VERSION   of the TPU VM's software; by default the one for the accelerator
  --project PROJECT   by default gcloud's
  --slices N          so many slices, each of TYPE; give --config.mesh.slices=N too
  --setup COMMAND     run on every worker before each start, for example to mount a bucket
  --delete            delete the TPUs once the last step is saved
  --delete-always     and when the training fails
  --stop              have a running training saved and stopped; the TPUs stay
  --dry-run           print what would be run, and run nothing

Which capacity, one of
  --spot              cheap, may be preempted at any time
  --reserved          of your reservation
  --flex-start TIME   for TIME, up to 7d, whenever there is room (gcloud alpha)
Handed to gcloud as they are: --network, --subnetwork, --internal-ips, --service-account, --scopes,
--tags, --labels, --metadata, --data-disk source=...,mode=read-only, --valid-until-duration. Workers
with --internal-ips are reached from the same network, or with
  --iap               through Identity-Aware Proxy (gcloud alpha)

--workdir is a gs:// path, or absolute and on a file system that all workers share. The code lies in
~/$codes, one folder a commit; nothing there or elsewhere is deleted. Example:
  bash launch/tpu_pod.sh --name tol --zone us-west4-a --accelerator v5litepod-256 --spot -- \\
    --config=configs/bioclip2_vitl14.py --config.data.dir=gs://tol/data --workdir=gs://tol/run
END
}

# ---- Options

codes="bioclip2_jax.code"
name="" zone="" accelerator="" version="" project="" setup=""
slices=1 delete="" stop="" dry_run="" capacity="" flex="" internal="" iap=""
create=(--quiet) reach=(--quiet)
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) help && exit ;;
    --stop) stop=yes ;;
    --delete) delete="${delete:-done}" ;;
    --delete-always) delete=always ;;
    --dry-run) dry_run=yes ;;
    --iap) iap=yes reach+=(--tunnel-through-iap) ;;
    --internal-ips) internal=yes create+=("$1") ;;
    --spot | --reserved) capacity+=" $1" create+=("$1") ;;
    --) break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    --name | --zone | --accelerator | --version | --project | --slices | --setup | --flex-start | \
      --network | --subnetwork | --service-account | --scopes | --tags | --labels | --metadata | \
      --data-disk | --valid-until-duration)
      [[ $# -gt 1 && "$2" != --* ]] || usage_error "$1: its value is missing"
      case "$1" in
        --name | --zone | --accelerator | --version | --project | --slices | --setup)
          declare "${1#--}=$2"
          ;;
        --flex-start)
          capacity+=" $1" flex=yes
          create+=(--provisioning-model=flex-start --max-run-duration="$2")
          ;;
        *) create+=("$1=$2") ;;
      esac
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
case "${capacity:1}" in *" "*) usage_error "${capacity:1}: choose one of them" ;; esac
[ -z "$internal" ] || [ -n "$iap" ] || reach+=(--internal-ip)
nodes=("$name")
if [ "$slices" -gt 1 ]; then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi
where=(--zone="$zone" ${project:+--project="$project"})
if [ -z "$stop" ]; then
  [ -n "$accelerator" ] || usage_error "--accelerator TYPE is missing"
  find_workdir
  case "$workdir" in
    *"/$codes"/* | *"/$codes") usage_error "--workdir=$workdir: is where the workers keep the code" ;;
    gs://?* | /*) ;;
    *) usage_error "--workdir=$workdir: write a gs:// path, or an absolute one that all workers share" ;;
  esac
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

# on NODE WORKER COMMAND: runs a shell command there; of all workers the first failure is its code.
on() {
  run gcloud ${iap:+alpha} compute tpus tpu-vm ssh "$1" "${where[@]}" "${reach[@]}" --worker="$2" \
    --command="$3"
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
  run gcloud ${flex:+alpha} compute tpus queued-resources create "$name" "${where[@]}" "${layout[@]}" \
    --accelerator-type="$accelerator" --runtime-version="$version" "${create[@]}"
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

# provide: returns when all slices are ready, requesting them (anew) where that is needed; sets `new`
# if they are.
been_ready="" requested="" new=""
provide() {
  local now before=""
  new=""
  while :; do
    now="$(state)"
    [ "$now" = "$before" ] || echo "== $name: $now" >&2
    case "$now" in
      READY)
        been_ready=yes requested=""
        return
        ;;
      UNKNOWN) [ -n "$been_ready" ] || exit 1 ;;
      ABSENT)
        if request; then
          requested=yes new=yes
        elif [ -z "$been_ready" ]; then
          fail "gcloud does not take the request; its message is above"
        fi
        ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED)
        [ -z "$requested" ] || fail "the request was refused; this tells why: $(show \
          gcloud compute tpus queued-resources describe "$name" "${where[@]}")"
        remove
        ;;
      ACTIVE) [ "$before" != ACTIVE ] || remove ;; # granted, but somebody has deleted the machines
    esac
    before="$now"
    sleep 30
  done
}

# ---- Training

worker="$codes/current/launch/tpu_worker.sh"

# look: asks all workers; sets `told`, their answers, and `verdict`: running, done, stopped, none, lost
# (some have lost their training, or the machines have ended it), parted (some run, some have ended),
# failed, or unreachable.
look() {
  local node
  told=""
  for node in "${nodes[@]}"; do
    told+="$(on "$node" all "if [ -f $worker ]; then bash $worker status; else echo new: none; fi" \
      2>/dev/null)"$'\n' || told+="unreachable"$'\n'
  done
  told="$(grep -E ': (running|none|stopped|ended [0-9]+)$|^unreachable$' <<<"$told" || echo unreachable)"
  case "$(cut -d' ' -f2- <<<"$told" | sort -u | paste -sd,)" in
    running | none | stopped) verdict="${told##*: }" ;;
    "ended 0") verdict="done" ;;
    *unreachable*) verdict=unreachable ;;
    running,stopped) verdict=running ;; # by --stop, soon all
    *stopped*) verdict=stopped ;;
    *none*) verdict=lost ;;
    *running*) verdict=parted ;;
    "ended 143") verdict=lost ;; # they were told to save and stop, not by --stop
    *) verdict=failed ;;
  esac
}

# start: copies the code, makes the environments and starts; fails where one worker does.
start() {
  local node commit folder package
  commit="$(git -C "$root" rev-parse --short=12 HEAD)" || return
  folder="$codes/$commit" package="bioclip2_jax-$name-$commit.tar.gz"
  run git -C "$root" archive --output="${TMPDIR:-/tmp}/$package" HEAD || return
  for node in "${nodes[@]}"; do
    run gcloud ${iap:+alpha} compute tpus tpu-vm scp "${TMPDIR:-/tmp}/$package" "$node:" \
      "${where[@]}" "${reach[@]}" --worker=all || return
    on "$node" all "mkdir -p $folder && tar xzf $package -C $folder && ln -sfn $commit $codes/current" ||
      return
    [ -z "$setup" ] || on "$node" all "$setup" || return
    on "$node" all "bash $worker install tpu$(bucket_extra)" || return
  done
  for node in "${nodes[@]}"; do
    on "$node" all "$(show bash "$worker" start "${arguments[@]}")" || return
  done
}

# start_patiently: a new machine may not answer at once.
start_patiently() {
  local attempt
  lines=20 parted=0
  for attempt in 1 2 3 4 5; do
    if start; then return; fi
    echo "== $name: attempt $attempt to start the training failed" >&2
    sleep 30
  done
  give_up "the training could not be started on $name; the reason is above"
}

# start_all_again: ends what is left, everywhere; not for ever where that does not help.
restarts=0
start_all_again() {
  local node
  restarts=$((restarts + 1))
  [ "$restarts" -le 3 ] || give_up "all workers of $name were started again three times within an hour"
  echo "== $name: starting all workers again; now they say:" >&2
  echo "$told" >&2
  for node in "${nodes[@]}"; do
    on "$node" all "if [ -f $worker ]; then bash $worker end; fi" || return 0 # and look again
  done
  start_patiently
}

# follow: shows the log of the first worker; its last lines only at first.
lines=20
follow() {
  on "${nodes[0]}" 0 "bash $worker follow $lines" || true
}

give_up() {
  [ "$delete" = always ] || fail "$*; the TPUs stay"
  remove
  fail "$*; the TPUs are deleted"
}

# watch: returns after a minute, or soon after the training of the first worker has ended.
follower=""
watch() {
  local _
  if ! kill -0 "$follower" 2>/dev/null; then
    set -m # a group of its own, which Ctrl-C reaches by way of `trap`
    follow </dev/null &
    set +m
    follower=$!
    lines=0
  fi
  for _ in {1..12}; do
    sleep 5
    kill -0 "$follower" 2>/dev/null || break
  done
}

# finish_log: returns when the follower has shown the end, which is seconds after it.
finish_log() {
  local _
  for _ in {1..20}; do
    kill -0 "$follower" 2>/dev/null || return 0
    sleep 1
  done
}

if [ -n "$stop" ]; then
  for node in "${nodes[@]}"; do on "$node" all "bash $worker stop"; done
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
trap '[ -z "$follower" ] || kill -- "-$follower" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
provide
look
case "$verdict" in
  running) echo "== $name: a training is running there; following it" >&2 ;;
  parted | lost) ;;
  *) start_patiently ;;
esac
looks=0 parted=0
while :; do
  if [ "$verdict" = parted ]; then sleep 60; else watch; fi
  look
  case "$verdict" in
    running)
      looks=$((looks + 1)) parted=0
      [ $((looks % 60)) -ne 0 ] || restarts=0
      ;;
    done)
      finish_log
      echo "== $name: the training has ended" >&2
      [ -z "$delete" ] || remove
      exit
      ;;
    stopped)
      finish_log
      echo "== $name: the training is saved and stopped; the TPUs stay" >&2
      exit
      ;;
    failed)
      finish_log
      echo "$told" >&2
      give_up "the training on $name ended with code $(sed -n 's/.*: ended \([1-9]\)/\1/p' \
        <<<"$told" | sort -u | paste -sd' '), its log is above"
      ;;
    parted)
      parted=$((parted + 1))
      [ "$parted" -lt 15 ] || start_all_again
      ;;
    none | lost) start_all_again ;;
    unreachable)
      provide
      [ -z "$new" ] || start_patiently
      ;;
  esac
done

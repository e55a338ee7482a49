#!/usr/bin/env bash
# A training in a container, whose restarts are its cluster's concern; see --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"
source "$here/training.sh"

help() {
  cat <<END
bash launch/container.sh [--dry-run] OPTIONS OF bioclip2 train

Runs \`bioclip2 train\` once, in a container that holds the package. SIGTERM: it saves and stops. The
exit code is the training's, so that a cluster can start it again after all but 0 and 2 (a wrong
call); where it stopped with steps left, which is no success to a cluster, it is 143.

  --dry-run   print what would be run, and run nothing

Example, as in launch/gke.yaml:
  bash launch/container.sh --config=configs/bioclip2_vitl14.py --config.data.dir=gs://tol/data \\
    --workdir=gs://tol/run
END
}

take_options "$@"
train=(bioclip2 train "${arguments[@]}")
if [ -n "$dry_run" ]; then
  show "${train[@]}"
  exit
fi
start_training setsid "${train[@]}"
if [ "$code" -eq 0 ] && ! is_done; then
  echo "== stopped after checkpoint $(newest_checkpoint), with steps left" >&2
  code=143
fi
exit "$code"

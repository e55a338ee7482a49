#!/usr/bin/env bash
# Trains on all GPUs of this machine; see --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"
source "$here/training.sh"

help() {
  cat <<END
bash launch/gpu_host.sh [--dry-run] OPTIONS OF bioclip2 train

Trains on all GPUs of this machine. Makes the environment with the CUDA packages that suit the
driver, then runs \`bioclip2 train\` with the options given. A training that crashes is started
again and goes on from its newest checkpoint, unless it had made none since its start; one that was
stuck (exit code 4) is started up to three times without. SIGTERM or Ctrl-C: it saves and stops. The
exit code is the training's.

  --dry-run   print what would be run, and run nothing
  PYTHON=...  the interpreter, VENV=... the environment (default .venv in the checkout)

Example:
  bash launch/gpu_host.sh --config=configs/photos.py --config.data.dir=data/birds \\
    --workdir=runs/birds
END
}

take_options "$@"
extra="$(cuda_extra "$dry_run")"
extra+="$(bucket_extra)"
if [ -n "$dry_run" ]; then
  show_environment "$extra"
  show bioclip2 train "${arguments[@]}"
  exit
fi
from="$PWD"
use_environment "$extra"
cd "$from" # names in the options count from where the caller stands
keep_training setsid bioclip2 train "${arguments[@]}" # setsid: Ctrl-C of a terminal is to come once
exit "$code"

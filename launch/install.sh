#!/usr/bin/env bash
# Makes or completes the environment and starts nothing; see --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"

help() {
  cat <<END
bash launch/install.sh [--dry-run] EXTRA[,EXTRA...]

Makes the environment, or installs what is missing in it: on a login node, say, that has a network,
for jobs on nodes that have none. The other scripts use a complete environment as it is.

  EXTRA       cuda13 for NVIDIA's driver 580 and newer, cuda12 from 525, tpu, cpu; gcs for gs:// paths.
              All: $(extras)
  --dry-run   print what would be run, and run nothing
  PYTHON=...  the interpreter, VENV=... the environment (default .venv in the checkout)

Example:
  bash launch/install.sh cuda13,gcs
END
}

# extras: those of pyproject.toml, and cpu, which needs none.
extras() {
  sed -n '/^\[project.optional-dependencies\]/,/^\[project.scripts\]/s/^\([a-z0-9]*\) = .*/\1/p' \
    "$here/../pyproject.toml" | sort | paste -sd' ' | sed 's/^/cpu /'
}

extra="" dry_run="" named=""
for argument; do
  case "$argument" in
    -h | --help) help && exit ;;
    --dry-run) dry_run=yes && continue ;;
  esac
  named=yes
  for name in ${argument//,/ }; do
    grep -qw -- "$name" <<<"$(extras)" || usage_error "$name: not one of: $(extras)"
    [ "$name" = cpu ] || extra+="${extra:+,}$name"
  done
done
[ -n "$named" ] || usage_error "EXTRA is missing, one of: $(extras)"
if [ -n "$dry_run" ]; then
  show_environment "$extra"
  exit
fi
use_environment "$extra"
echo "== the environment is complete"

#!/usr/bin/env bash
# The full test suite in its own environment: bash launch/test.sh [pytest's options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment dev
exec python -m pytest -q "$@"

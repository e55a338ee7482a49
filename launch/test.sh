#!/usr/bin/env bash
# The tests in their own environment: all of them on all processors, or what pytest's options choose:
#   bash launch/test.sh [tests/test_images.py -k gif]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment dev
[ "$#" -gt 0 ] || set -- --numprocesses=auto --maxprocesses=8 --dist=worksteal
exec python -m pytest -q "$@"

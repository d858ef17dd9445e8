#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All static checks; runs each even when one before it failed, and fails if any did.
set -uo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1

# The sources, not the build: a check must not depend on what was built last.
sources=$(printf '%s:' "$PWD"/src/*)
status=0
check() {
  echo "== $*"
  PYTHONPATH="$sources${PYTHONPATH:-}" "$@" || status=1
}
check ruff check --output-format concise .
check mypy
check lint-imports
exit $status

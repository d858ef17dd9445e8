#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All static checks; runs each even when one before it failed, and fails if any did.
set -uo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1

# The sources, not the build: a check must not depend on what was built last.
sources=$(printf '%s:' "$PWD"/src/*)
failed=()
check() {
  echo "== $*"
  PYTHONPATH="$sources${PYTHONPATH:-}" "$@" || failed+=("$1")
}
check ruff check --output-format concise .
check mypy
check lint-imports
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all checks passed"

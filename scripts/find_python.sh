#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a Python 3.11 or 3.12 that really runs, or explains why there is none.
# Every hit on PATH is started, because a version manager's shim can be on PATH and still fail.
set -uo pipefail

usable='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
# Complete: can make a virtual environment and has the headers that generated messages need.
complete='import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'

first=
for name in python3.12 python3.11 python3; do
  while IFS= read -r candidate; do
    "$candidate" -S -c "$usable" </dev/null >/dev/null 2>&1 || continue
    if "$candidate" -c "$complete" </dev/null >/dev/null 2>&1; then
      echo "$candidate"
      exit 0
    fi
    first=${first:-$candidate}
  done < <(type -ap "$name")
done
# An incomplete one will do: the bootstrap names (or installs) the packages that complete it.
if [ -n "$first" ]; then
  echo "$first"
  exit 0
fi
{
  echo "rl100: no working Python 3.11 or 3.12 on PATH (the ROS 2 wheels exist for these two only)."
  echo "  Ubuntu 24.04:  sudo apt-get install python3.12 python3.12-venv python3.12-dev"
  echo "  Debian 12:     sudo apt-get install python3.11 python3.11-venv python3.11-dev"
} >&2
exit 1

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Remakes requirements/lock.txt after an edit of the .in files: resolves them in an empty virtual
# environment (nothing is installed) and writes the exact versions down. Needs a Python 3.11.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --dry-run --report "$work/report.json" \
  -r requirements/requirements.in
"$work/venv/bin/python" - "$work/report.json" > "$work/lock.txt" <<'PYTHON'
import json, re, sys

# torch's CUDA companions depend on the index and the machine; they are left to pip.
platform_bound = re.compile(r"(nvidia|cuda|triton)(-|$)")
pins = {}
for item in json.load(open(sys.argv[1]))["install"]:
    name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
    if not platform_bound.match(name):
        # without the local part: +cpu or +cu130 say which build, not which version
        pins[name] = item["metadata"]["version"].split("+")[0]
print("\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))
PYTHON
{ sed '/^#/!d' requirements/lock.txt; cat "$work/lock.txt"; } > "$work/new.txt"
cp "$work/new.txt" requirements/lock.txt
echo "requirements/lock.txt: $(grep -c == requirements/lock.txt) pins"

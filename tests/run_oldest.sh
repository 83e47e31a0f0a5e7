#!/usr/bin/env bash
# Run the fast tests with the oldest supported version of everything that pyproject.toml names,
# in an environment of its own (about 6 GB, deleted afterwards).
#
#     bash tests/run_oldest.sh [arguments of pytest]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 - "$root/pyproject.toml" > "$folder/oldest.txt" <<'PYTHON'
import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
listing = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE).group(1)
for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', listing):
    print(f"{name}=={version}{'.*' if name.startswith('opencv') else ''}")
PYTHON
cat "$folder/oldest.txt"

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-cache-dir -r "$folder/oldest.txt" \
    "pytest>=8" "pytest-timeout>=2.3"
cd "$root"
PYTHONPATH=$root "$folder/env/bin/python" -m pytest -p no:cacheprovider "$@"

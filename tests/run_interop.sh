#!/usr/bin/env bash
# Run the tests beside other projects: mmpretrain on mmcv-lite, with MMEngine and with the
# maintained fork onedl-mmengine in its place. The environments are made anew and deleted
# afterwards (6 GB).
#
#     bash tests/run_interop.sh [--site PYTHON] [arguments of pytest]
#
# --site takes torch and all other dependencies from the environment of that Python, which has
# them installed; 60 MB are downloaded then.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
site=
if [[ ${1:-} == --site ]]; then
    site=$2
    shift 2
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$root"

theirs=(mmpretrain==1.2.0 mmcv-lite==2.2.0 tensorboard)
fork=onedl-mmengine==0.10.12
ours=(tests/docs/test_recipes.py tests/engine/test_runner.py tests/engine/test_resume.py
    tests/hooks/test_attached_*.py tests/golden)

make() { # name: an environment with this package's dependencies and mmpretrain
    python="$folder/$1/bin/python"
    "${site:-python3}" -m venv "$folder/$1"
    if [[ $site ]]; then
        "$site" -c "import site; print(*site.getsitepackages(), sep='\n')" \
            > "$("$python" -c "import site; print(site.getsitepackages()[0])")/site.pth"
    else
        "$python" -m pip install -qq --no-cache-dir ".[test]"
    fi
    "$python" -m pip install -qq --no-cache-dir "${theirs[@]}"
}

run() { # arguments of pytest, after what is there
    "$python" - <<'PYTHON'
from importlib.metadata import distributions
from platform import python_version

names = "mmpretrain mmcv-lite mmengine mmengine-lite onedl-mmengine torch timm numpy".split()
found = {}
for each in distributions():  # of several, the first is the one that is imported
    found.setdefault(each.name, each.version)
shown = [f"Python {python_version()}", *(f"{name} {found[name]}" for name in names if name in found)]
print(", ".join(shown))
PYTHON
    "$python" -c "import mmengine; print('mmengine', mmengine.__version__, 'is imported')"
    PYTHONPATH=$root "$python" -m pytest -p no:cacheprovider -q -W ignore "$@"
}

make mmpretrain
run tests/interop "$@"
rm -rf "$folder/mmpretrain"

make fork
[[ $site ]] || "$python" -m pip uninstall -qq --yes mmengine mmengine-lite
"$python" -m pip install -qq --no-cache-dir --no-deps "$fork"
run tests/interop "${ours[@]}" "$@"

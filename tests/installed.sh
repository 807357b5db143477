#!/usr/bin/env bash
# The wheel in an empty environment: installed, and used from a folder that is not the checkout.
#   tests/installed.sh [PYTHON]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && xargs -0 cp --parents -t "$work" 2>/dev/null)
"${1:-python3}" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir="$work/dist" "$work"
rm -rf "$work/music_map" "$work/launch" "$work/configs"
"$bin/pip" install --quiet --quiet --disable-pip-version-check "$work"/dist/*.whl
mkdir "$work/use" && cd "$work/use"

said=$("$bin/music-map" report --workdir=run --output=r.html 2>&1) && { echo "a report without its extra"; exit 1; }
[ "$said" = "error: the report needs the package jinja2, which is not installed: pip install 'music-map[report]'" ] ||
  { echo "$said"; exit 1; }
"$bin/python" -c "
import importlib.util, pathlib, music_map
assert importlib.util.find_spec('launch') is None and importlib.util.find_spec('configs') is None
assert (pathlib.Path(music_map.__file__).parent / 'py.typed').exists()"
"$bin/music-map" >jobs.txt
"$bin/music-map" generate --size=tiny --output=data/tiny
"$bin/music-map" train --config=configs/test.py --workdir=run --quiet
song=$("$bin/python" -c "
import music_map
print(music_map.Recommender.load('run').export.item_ids[0])")
"$bin/music-map" recommend --workdir=run --songs="$song" --k=5
"$bin/music-map" export-map --workdir=run --output=map.html --method=pca
test -s map.html
echo "installed from its wheel: $(wc -l <jobs.txt) lines of jobs, trained, recommended, mapped"

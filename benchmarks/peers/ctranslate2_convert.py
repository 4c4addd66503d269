"""Turns a folder made by shapes.py into CTranslate2's form with its own converter.

Runs in CTranslate2's environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ctranslate2
import hf_folder


def main() -> None:
    folder, kind, target = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    source = hf_folder.make(folder)
    ctranslate2.converters.TransformersConverter(str(source)).convert(target, quantization=kind)


if __name__ == "__main__":
    main()

"""What an OpenVINO model really holds: its integer matrices back as float32 under the checkpoint's names,
with the type and the bytes of each.

Runs in OpenVINO's environment: FOLDER MODEL TARGET.npz. OpenVINO itself evaluates the constants (integers,
zero points, scales) up to the matrix product that reads them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino

DECOMPRESSION = ("Convert", "Subtract", "Multiply", "Reshape")
BEFORE, AFTER = "self.", "._openvino_orig_weight"


def decompressed(constant: openvino.Node) -> openvino.Node:
    """The last node of the chain that turns integers into weights."""
    node = constant
    while True:
        readers = [entry.get_node() for entry in node.output(0).get_target_inputs()]
        chain = [reader for reader in readers if reader.get_type_name() in DECOMPRESSION]
        if len(readers) != 1 and not chain:
            return node
        if not chain or any(not is_constant(source) for source in sources(chain[0]) if source != node):
            return node
        node = chain[0]


def sources(node: openvino.Node) -> list[openvino.Node]:
    return [node.input_value(i).get_node() for i in range(node.get_input_size())]


def is_constant(node: openvino.Node) -> bool:
    """Whether nothing but constants goes into it."""
    return node.get_type_name() == "Constant" or (
        bool(sources(node)) and all(is_constant(source) for source in sources(node))
    )


def constant_bytes(node: openvino.Node) -> int:
    """Of the integers, zero points and scales; shapes of reshapes (int64) do not count."""
    if node.get_type_name() == "Constant":
        kind = node.get_element_type()
        return (
            0
            if kind.get_type_name() == "i64"
            else kind.bitwidth * int(np.prod(node.get_output_shape(0))) // 8
        )
    return sum(constant_bytes(source) for source in sources(node))


def main() -> None:
    model_folder, target = Path(sys.argv[2]), Path(sys.argv[3])
    core = openvino.Core()
    model = core.read_model(model_folder / "openvino_model.xml")
    values, types = {}, {}
    for constant in model.get_ops():
        name = constant.get_friendly_name()
        if constant.get_type_name() != "Constant" or not name.endswith(AFTER):
            continue
        last = decompressed(constant)
        part = openvino.Model([last.output(0)], [], "weights")
        rows = next(iter(core.compile_model(part, "CPU")([]).values()))
        name = name.removeprefix(BEFORE).removesuffix(AFTER) + ".weight"
        values[name] = rows.astype(np.float32)
        types[name] = (constant.get_element_type().get_type_name(), constant_bytes(last))
    np.savez(target, **values, types=json.dumps(types))


if __name__ == "__main__":
    main()

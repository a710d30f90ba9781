"""Writes one step of a recurrent stack as an ONNX file, for onnxruntime and tract."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Operator, gates, whether there is a cell state, attributes that make it PyTorch's variant.
OPERATORS = {
    "lstm": ("LSTM", 4, True, {}),
    "gru": ("GRU", 3, False, {"linear_before_reset": 1}),
    "rnn": ("RNN", 1, False, {}),
}


def write_step(case, path):
    """Inputs `x` [1, B, I] and the state of each layer [1, B, H] (`h0`, `c0`, `h1`, ...); outputs `y` [1, B, H]
    and the next state under the same names with `_next` behind."""
    operator, gates, has_cell, attributes = OPERATORS[case["cell"]]
    batch, hidden, layers = case.get("batch", 1), case["hidden"], case.get("layers", 2)
    random = np.random.default_rng(1)
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    width, below = case.get("input") or hidden, "x"
    inputs, outputs, nodes, weights = [tensor("x", [1, batch, width])], [], [], []
    for k in range(layers):
        shapes = {"W": [1, gates * hidden, width], "R": [1, gates * hidden, hidden], "B": [1, 2 * gates * hidden]}
        for name, shape in shapes.items():
            values = random.uniform(-1, 1, shape).astype(np.float32) / np.float32(hidden**0.5)
            weights.append(numpy_helper.from_array(values, f"{name}{k}"))
        states = [f"h{k}", f"c{k}"] if has_cell else [f"h{k}"]
        inputs += [tensor(name, [1, batch, hidden]) for name in states]
        outputs += [tensor(f"{name}_next", [1, batch, hidden]) for name in states]
        nodes.append(
            helper.make_node(
                operator,
                [below, f"W{k}", f"R{k}", f"B{k}", "", *states],
                [f"all{k}", *[f"{name}_next" for name in states]],
                hidden_size=hidden,
                **attributes,
            )
        )
        # [1, directions, B, H] without its directions.
        nodes.append(helper.make_node("Squeeze", [f"all{k}", "axis"], [f"y{k}"]))
        width, below = hidden, f"y{k}"
    weights.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"))
    nodes.append(helper.make_node("Identity", [below], ["y"]))
    outputs.insert(0, tensor("y", [1, batch, hidden]))
    graph = helper.make_graph(nodes, "step", inputs, outputs, weights)
    # Old enough for every reader.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)

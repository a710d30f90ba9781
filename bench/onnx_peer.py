"""onnxruntime's side of the bench: single steps of the model that onnx_model.py wrote.

One case a line (JSON) on stdin, with the model's file as `onnx`; one line out. Variant `session` calls the session
with arrays, as most do; `binding` binds all buffers once and lets the state go back and forth between two sets.
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime

from timing import timed


def session_step(session):
    feeds = {one.name: np.zeros(one.shape, np.float32) for one in session.get_inputs()}
    feeds["x"] = np.random.default_rng(1).standard_normal(feeds["x"].shape, np.float32)
    names = [one.name for one in session.get_outputs()]

    def one():
        for name, value in zip(names, session.run(names, feeds)):
            if name.endswith("_next"):
                feeds[name.removesuffix("_next")] = value

    return one


def binding_step(session):
    value = lambda shape: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    x = np.random.default_rng(1).standard_normal(session.get_inputs()[0].shape, np.float32)
    states = [{one.name: value(one.shape) for one in session.get_inputs()[1:]} for _ in range(2)]
    bindings = []
    for before, after in [states, states[::-1]]:
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", value(session.get_outputs()[0].shape))
        for name in before:
            binding.bind_ortvalue_input(name, before[name])
            binding.bind_ortvalue_output(f"{name}_next", after[name])
        bindings.append(binding)
    turn = [0]

    def one():
        session.run_with_iobinding(bindings[turn[0]])
        turn[0] ^= 1

    return one


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps({"peer": "onnxruntime", "version": onnxruntime.__version__}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        session = onnxruntime.InferenceSession(case["onnx"], settings, providers=["CPUExecutionProvider"])
        variant = case.get("variant", "session")
        build = {"session": session_step, "binding": binding_step}[variant]
        print(json.dumps(timed(case.get("seconds", 2.0), build(session)) | {"variant": variant}), flush=True)


if __name__ == "__main__":
    main()

"""PyTorch's side of the bench: reads one case a line (JSON) from stdin, times it, answers with one line.

    echo '{"bench": "layer", "cell": "lstm", "shape": [64, 32, 256], "mode": "train"}' | python bench/torch_peer.py

The first line it prints names it and its version. Cases are those of run.py; `variant` chooses between ways to
say the same thing (`eager`, `compile`, ...), the first being PyTorch's plain one.
"""

import argparse
import gc
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence

from timing import timed
from translator import EOS, SOS, Translator, beam_search, padded

CELLS = {
    "lstm": (nn.LSTM, nn.LSTMCell, {}),
    "gru": (nn.GRU, nn.GRUCell, {}),
    "rnn": (nn.RNN, nn.RNNCell, {}),
    "rnn-relu": (nn.RNN, nn.RNNCell, {"nonlinearity": "relu"}),
}


def layer(case, variant):
    """Whole sequences, time first (PyTorch's default order); ragged ones as a PackedSequence made beforehand."""
    time, batch, hidden = case["shape"]
    width = case.get("input") or hidden
    module, _, extra = CELLS[case["cell"]]
    directions = {"forward": False, "both": True}[case.get("direction", "forward")]
    stack = module(width, hidden, case.get("layers", 2), bidirectional=directions, **extra)
    training = case["mode"] == "train"
    call = torch.compile(stack) if variant == "compile" else stack
    x = torch.randn(time, batch, width, requires_grad=training)
    lengths = case.get("lengths")
    if lengths:
        # The packing itself is not timed; a leaf keeps the gradient of the input.
        packed = pack_padded_sequence(x.detach(), torch.tensor(lengths), enforce_sorted=False)
        leaf = packed.data.requires_grad_(training)
        x = torch.nn.utils.rnn.PackedSequence(leaf, *packed[1:])

    def train():
        stack.zero_grad(set_to_none=True)
        (x.data if lengths else x).grad = None
        y, _ = call(x)
        (y.data if lengths else y).sum().backward()

    def infer():
        with torch.inference_mode():
            call(x)

    stack.train(training)
    return train if training else infer


def step(case, variant):
    """One step at a time from the last state: nn.LSTM on a sequence of one, or a cell for each layer."""
    hidden, batch, layers = case["hidden"], case.get("batch", 1), case.get("layers", 2)
    width = case.get("input") or hidden
    module, cell, extra = CELLS[case["cell"]]
    if variant == "module":
        stack = module(width, hidden, layers, **extra).eval()
        x = torch.randn(1, batch, width)
        with torch.inference_mode():
            state = [stack(x)[1]]

        def one():
            with torch.inference_mode():
                _, state[0] = stack(x, state[0])

        return one

    cells = nn.ModuleList(cell(width if k == 0 else hidden, hidden, **extra) for k in range(layers)).eval()
    x = torch.randn(batch, width)

    def walk(x, states):
        new = []
        for one, state in zip(cells, states):
            state = one(x, state)
            x = state[0] if isinstance(state, tuple) else state
            new.append(state)
        return new

    call = torch.compile(walk) if variant == "cells compiled" else walk
    zero = lambda: torch.zeros(batch, hidden)
    states = [[(zero(), zero()) if case["cell"] == "lstm" else zero() for _ in range(layers)]]

    def one():
        with torch.inference_mode():
            states[0] = call(x, states[0])

    return one


class LanguageModel(nn.Module):
    def __init__(self, case):
        super().__init__()
        module, _, extra = CELLS[case["cell"]]
        self.embedding = nn.Embedding(case["vocabulary"], case["embedding"])
        self.recurrent = module(case["embedding"], case["hidden"], case["layers"], batch_first=True, **extra)
        self.output = nn.Linear(case["hidden"], case["vocabulary"])

    def forward(self, inputs, targets, state):
        y, state = self.recurrent(self.embedding(inputs), state)
        return cross_entropy(self.output(y).flatten(0, 1), targets.flatten()), state


def model(case, variant):
    """A whole training step, as users write it: fused optimiser, clipping by the global norm, state carried on."""
    network = LanguageModel(case)
    call = torch.compile(network) if variant == "compile" else network
    optimisers = {
        "adam": lambda p: torch.optim.Adam(p, lr=2e-3, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=1.0, fused=True),
    }
    optimiser = optimisers[case["optimizer"]](network.parameters())
    tokens = torch.randint(case["vocabulary"], (2, case["batch"], case["bptt"]))
    state = [None]

    def one():
        loss, after = call(tokens[0], tokens[1], state[0])
        state[0] = tuple(part.detach() for part in after) if isinstance(after, tuple) else after.detach()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), case["clip_norm"])
        optimiser.step()
        return loss.item()

    return one


def translate(case, variant):
    """Whole training steps of a translator, or beam search for all sentences, each as long as its source."""
    sentences, (least, most) = case["sentences"], case["lengths"]
    network = Translator(case["cell"], case["vocabulary"], case["embedding"], case["hidden"], case["layers"])
    lengths = [least + (most - least) * place // max(sentences - 1, 1) for place in range(sentences)]
    side = lambda size: padded([[SOS, *torch.randint(4, size, (length,)).tolist(), EOS] for length in lengths])
    (sources, places), (targets, _) = map(side, case["vocabulary"])
    if case["mode"] == "train":
        call = torch.compile(network) if variant == "compile" else network
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)

        def one():
            loss = call(sources, places, targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), case["clip_norm"])
            optimiser.step()
            return loss.item()

        return one

    network.eval()
    with torch.no_grad():
        network.output.bias[EOS] = -1e4
    step = torch.compile(network.decode) if variant == "compile" else network.decode

    def one():
        with torch.inference_mode():
            beam_search(network, sources, places, case["beam"], torch.tensor(lengths), step)

    return one


BENCHES = {
    "layer": (layer, ["eager", "compile"]),
    "step": (step, ["module", "cells", "cells compiled"]),
    "model": (model, ["eager", "compile"]),
    "translate": (translate, ["eager", "compile"]),
}


def peak_memory():
    """The most memory that this process has held so far, in bytes; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # What the library itself takes, before there is any model.
    base = peak_memory()
    print(json.dumps({"peer": "PyTorch", "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        torch.manual_seed(case.get("seed", 1))
        build, variants = BENCHES[case["bench"]]
        variant = case.get("variant", variants[0])
        answer = timed(case.get("seconds", 2.0), build(case, variant)) | {"variant": variant}
        answer |= {"base_memory_bytes": base, "peak_memory_bytes": peak_memory()}
        gc.collect()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

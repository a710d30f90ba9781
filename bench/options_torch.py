"""A cell with an option as PyTorch's users write it, a loop over single steps, beside the fused layer: one training
step (forward and backward) of one LSTM layer, T 64, B 32, H 256. The fused one's milliseconds come from
`cargo run --release --example layer_cost`; both sides run in turn. Writes its table to RESULTS.md.

    bench/.venv/bin/python bench/options_torch.py
"""

import argparse
import statistics
import subprocess
import time
from pathlib import Path

import torch
from results import add_machine_option, machine, write_section
from torch.nn.functional import layer_norm

STEPS, SEQUENCES, HIDDEN, PROJECTED = 64, 32, 256, 128
TURNS, ROUNDS = 3, 3
COMMAND = ["cargo", "run", "--release", "--quiet", "--example", "layer_cost"]
HEAD = """## Options beside a loop in PyTorch

One training step, forward and backward, of one LSTM layer with an option, T 64, B 32, H 256: fused, and as a loop over
single steps in PyTorch (`nn.LSTMCell` where the option leaves its step whole, its equations written out where it does
not). Medians; both sides in turn. The loop is wanted at least 3 times slower."""


class Plain(torch.nn.Module):
    """`nn.LSTMCell` step after step; what an option changes is a method."""

    values = HIDDEN

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.LSTMCell(HIDDEN, HIDDEN)

    def begin(self):
        """What is drawn once a sequence."""

    def step(self, x, h, c):
        return self.cell(x, (h, c))

    def forward(self, x):
        h, c = torch.zeros(SEQUENCES, self.values), torch.zeros(SEQUENCES, HIDDEN)
        self.begin()
        rows = []
        for t in range(STEPS):
            h, c = self.step(x[t], h, c)
            rows.append(h)
        return torch.stack(rows)


class WrittenOut(Plain):
    """The cell's equations."""

    def sums(self, x, h):
        cell = self.cell
        return (x @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh).chunk(4, 1)


class Normalised(WrittenOut):
    def __init__(self):
        super().__init__()
        self.gains = torch.nn.Parameter(torch.ones(6, HIDDEN))

    def step(self, x, h, c):
        cell = self.cell
        biases = (cell.bias_ih + cell.bias_hh).chunk(4)
        sums = (x @ cell.weight_ih.T + h @ cell.weight_hh.T).chunk(4, 1)
        i, f, g, o = (layer_norm(s, (HIDDEN,), self.gains[k], biases[k]) for k, s in enumerate(sums))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(layer_norm(c, (HIDDEN,), self.gains[4], self.gains[5])), c


class Peepholes(WrittenOut):
    def __init__(self):
        super().__init__()
        self.peephole = torch.nn.Parameter(torch.zeros(3, HIDDEN))

    def step(self, x, h, c):
        i, f, g, o = self.sums(x, h)
        i, f = torch.sigmoid(i + self.peephole[0] * c), torch.sigmoid(f + self.peephole[1] * c)
        c = f * c + i * torch.tanh(g)
        return torch.sigmoid(o + self.peephole[2] * c) * torch.tanh(c), c


class Zoneout(Plain):
    def step(self, x, h, c):
        new_h, new_c = self.cell(x, (h, c))
        keep_h, keep_c = torch.rand_like(h) < 0.15, torch.rand_like(c) < 0.5
        return torch.where(keep_h, h, new_h), torch.where(keep_c, c, new_c)


class RecurrentDropout(Plain):
    def begin(self):
        self.mask = (torch.rand(SEQUENCES, HIDDEN) >= 0.3) / 0.7

    def step(self, x, h, c):
        return self.cell(x, (h * self.mask, c))


class UpdateDropout(WrittenOut):
    def step(self, x, h, c):
        i, f, g, o = self.sums(x, h)
        mask = (torch.rand(SEQUENCES, HIDDEN) >= 0.3) / 0.7
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * (mask * torch.tanh(g))
        return torch.sigmoid(o) * torch.tanh(c), c


class DropConnect(WrittenOut):
    def begin(self):
        self.dropped = torch.nn.functional.dropout(self.cell.weight_hh, 0.5)

    def step(self, x, h, c):
        cell = self.cell
        return torch.lstm_cell(x, (h, c), cell.weight_ih, self.dropped, cell.bias_ih, cell.bias_hh)


class Projection(WrittenOut):
    values = PROJECTED

    def __init__(self):
        super().__init__()
        self.cell.weight_hh = torch.nn.Parameter(torch.randn(4 * HIDDEN, PROJECTED) / 16)
        self.weight_hr = torch.nn.Parameter(torch.randn(PROJECTED, HIDDEN) / 16)

    def step(self, x, h, c):
        i, f, g, o = self.sums(x, h)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return (torch.sigmoid(o) * torch.tanh(c)) @ self.weight_hr.T, c


LOOPS = {
    "none": Plain,
    "layer normalisation": Normalised,
    "peepholes": Peepholes,
    "zoneout of h and c": Zoneout,
    "recurrent dropout": RecurrentDropout,
    "dropout of the update": UpdateDropout,
    "DropConnect": DropConnect,
    "projection to 128": Projection,
}


def loop_times(make):
    module, x = make(), torch.randn(STEPS, SEQUENCES, HIDDEN, requires_grad=True)
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        module(x).square().sum().backward()
        times.append((time.perf_counter() - began) * 1e3)
    return times[1:]


def fused_times():
    ran = subprocess.run(COMMAND, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    return {name: float(time) for name, time in (line.split("\t") for line in ran.stdout.splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_machine_option(parser)
    options = parser.parse_args()
    fused, loops = {name: [] for name in LOOPS}, {name: [] for name in LOOPS}
    for _ in range(TURNS):
        for name, milliseconds in fused_times().items():
            fused[name].append(milliseconds)
        for name, make in LOOPS.items():
            loops[name] += loop_times(make)
    plain = statistics.median(fused["none"])
    rows = ["| option | fused ms | beside none | loop in PyTorch, ms | loop / fused |", "|---|---|---|---|---|"]
    for name in LOOPS:
        own, loop = statistics.median(fused[name]), statistics.median(loops[name])
        rows.append(f"| {name} | {own:.1f} | {own / plain:.2f} | {loop:.0f} | {loop / own:.1f} |")
    table = "\n".join(rows)
    print(table)
    foot = f"PyTorch {torch.__version__}; {machine()}. Written by `bench/options_torch.py`, with `{' '.join(COMMAND)}`."
    write_section("options-torch", f"{HEAD}\n\n{table}\n\n{foot}", place=options.machine)


if __name__ == "__main__":
    main()

"""A cell with layer normalisation as PyTorch's users write it, a loop over single steps, beside the fused layer: one
training step (forward and backward) of one LSTM layer, T 64, B 32, H 256. Prints the median milliseconds of both; the
fused one's are measured by `cargo run --release --example norm_cost`.

    python3 bench/options_torch.py
"""

import statistics
import subprocess
import time
from pathlib import Path

import torch
from torch.nn.functional import layer_norm

STEPS, SEQUENCES, HIDDEN, ROUNDS = 64, 32, 256, 7
COMMAND = ["cargo", "run", "--release", "--quiet", "--example", "norm_cost"]


def make():
    cell = torch.nn.LSTMCell(HIDDEN, HIDDEN)
    gains = torch.nn.Parameter(torch.ones(6, HIDDEN))
    return cell, gains


def step(cell, gains, x):
    """The cell's equations, its products taken from LSTMCell's weights; each gate's sum normalised by itself."""
    h = c = torch.zeros(SEQUENCES, HIDDEN)
    biases = (cell.bias_ih + cell.bias_hh).chunk(4)
    rows = []
    for t in range(STEPS):
        sums = (x[t] @ cell.weight_ih.T + h @ cell.weight_hh.T).chunk(4, 1)
        i, f, g, o = (layer_norm(s, (HIDDEN,), gains[k], biases[k]) for k, s in enumerate(sums))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(layer_norm(c, (HIDDEN,), gains[4], gains[5]))
        rows.append(h)
    return torch.stack(rows)


def main():
    cell, gains = make()
    x = torch.randn(STEPS, SEQUENCES, HIDDEN, requires_grad=True)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step(cell, gains, x).square().sum().backward()
        times.append((time.perf_counter() - began) * 1e3)
    loop = statistics.median(times[1:])
    ran = subprocess.run(COMMAND, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    fused = float(ran.stdout)
    print(f"PyTorch loop {loop:.1f} ms, fused {fused:.1f} ms, ratio {loop / fused:.2f}")


if __name__ == "__main__":
    main()

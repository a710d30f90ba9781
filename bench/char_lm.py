"""Carousel's character model, written in PyTorch: same sizes, same batches, same optimiser.

    python bench/char_lm.py --data FILE --out curve.json [--start FOLDER] [--epochs 10]

Prints one JSON line an epoch (nats per character on the training part and on the held-out part, seconds of
training) and writes them all to --out. With --start, vocabulary and weights come from a Carousel run folder,
so that both sides begin at the same point; without, from PyTorch's own initialisation.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

UNKNOWN = "<unk>"


class CharModel(nn.Module):
    """Embedding, recurrent layers, output layer; its parameters have Carousel's names."""

    def __init__(self, recurrent, vocabulary, embedding, hidden):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = recurrent
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, ids, state=None):
        values, state = self.recurrent(self.embedding(ids), state)
        return self.output(values), state


def read_vocabulary(run):
    """The tokens of a Carousel run, in the order of their ids."""
    return json.loads((Path(run) / "vocab.json").read_text(encoding="utf-8"))["entries"]


def train_length(total):
    """Characters of the training part: the first 90 %, rounded down (a hair is added against 0.9's rounding)."""
    return int(0.9 * total + 1e-6)


def encode(text, vocabulary):
    ids = {token: id for id, token in enumerate(vocabulary)}
    return torch.tensor([ids.get(character, ids.get(UNKNOWN)) for character in text])


def detach(state):
    """The gradient stops at the edge of a window."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def first_rows(state, count):
    """The state of the first streams; None stays None."""
    if state is None:
        return None
    cut = lambda part: part[:, :count].contiguous()
    return tuple(map(cut, state)) if isinstance(state, tuple) else cut(state)


def train_windows(ids, streams, bptt):
    """Equal streams, the rest of the text dropped: (inputs, targets), each [streams, at most bptt]."""
    part = (len(ids) - 1) // streams
    inputs = ids[: streams * part].view(streams, part)
    targets = ids[1 : streams * part + 1].view(streams, part)
    for start in range(0, part, bptt):
        yield inputs[:, start : start + bptt], targets[:, start : start + bptt]


@torch.no_grad()
def evaluate(model, ids, streams, bptt):
    """Mean nats per character over every target; the first streams are one longer where they must be."""
    count = len(ids) - 1
    part, longer = divmod(count, streams)
    starts = [stream * part + min(stream, longer) for stream in range(streams)]
    loss = nn.CrossEntropyLoss(reduction="sum")

    def window(rows, first, last, state):
        places = torch.tensor(rows)[:, None] + torch.arange(first, last)
        logits, state = model(ids[places], state)
        return loss(logits.flatten(0, 1), ids[places + 1].flatten()).item(), state

    state, total = None, 0.0
    for first in range(0, part, bptt):
        nats, state = window(starts, first, min(first + bptt, part), state)
        total += nats
    if longer:
        total += window(starts[:longer], part, part + 1, first_rows(state, longer))[0]
    return total / count


def set_forget_bias(lstm, value):
    """One of PyTorch's two biases gets the value, the other 0, so that they sum to it."""
    with torch.no_grad():
        for name, bias in lstm.named_parameters():
            if name.startswith("bias_"):
                forget = slice(lstm.hidden_size, 2 * lstm.hidden_size)
                bias[forget] = value if name.startswith("bias_ih") else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a UTF-8 text file")
    parser.add_argument("--out", type=Path, required=True, help="where the curve is written (JSON)")
    parser.add_argument("--start", type=Path, help="a Carousel run whose vocabulary and weights to begin from")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--embedding", type=int, default=128)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--bptt", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--clip-norm", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    text = options.data.read_bytes().decode("utf-8")
    split = train_length(len(text))
    vocabulary = read_vocabulary(options.start) if options.start else [UNKNOWN, *sorted(set(text[:split]))]
    ids = encode(text, vocabulary)
    train, valid = ids[:split], ids[split:]

    recurrent = nn.LSTM(options.embedding, options.hidden, options.layers, batch_first=True)
    set_forget_bias(recurrent, 1.0)
    model = CharModel(recurrent, len(vocabulary), options.embedding, options.hidden)
    if options.start:
        model.load_state_dict(load_file(options.start / "model.safetensors"))
    optimiser = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    loss = nn.CrossEntropyLoss()

    curve = []
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        state, total, count = None, 0.0, 0
        for inputs, targets in train_windows(train, options.batch, options.bptt):
            logits, state = model(inputs, state)
            state = detach(state)
            nats = loss(logits.flatten(0, 1), targets.flatten())
            optimiser.zero_grad(set_to_none=True)
            nats.backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
            optimiser.step()
            total += nats.item() * targets.numel()
            count += targets.numel()
        seconds = time.perf_counter() - began
        valid_nats = evaluate(model, valid, options.batch, options.bptt)
        curve.append({"epoch": epoch, "train": total / count, "valid": valid_nats, "seconds": seconds})
        print(json.dumps(curve[-1]), flush=True)

    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"torch": torch.__version__, "parameters": parameters, "curve": curve}
    options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Checks that models pass between Carousel and PyTorch in both directions.

    cargo build --release
    python bench/interchange.py --carousel target/release/carousel --data FILE

For every cell PyTorch has (nn.LSTM, nn.GRU, nn.RNN with tanh and with ReLU):

1. Carousel trains a small model for some steps. Its model.safetensors goes into PyTorch by name, the recurrent
   part by `load_state_dict` as it is. PyTorch and `carousel eval` must measure the same loss.
2. PyTorch makes new weights, writes them as model.safetensors into a copy of the run, and `carousel eval`
   must measure PyTorch's loss again.

The loss is measured on the whole text and on short pieces of it, where every character counts; equal means
within 1e-5 of it. Writes the section `interchange` of RESULTS.md and exits 1 on any disagreement.
"""

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from char_lm import CharModel, encode, evaluate, read_vocabulary
from safetensors.torch import load_file, save_file
from torch import nn

import results

EMBEDDING, HIDDEN, LAYERS, BATCH, BPTT = 12, 20, 2, 4, 16
CELLS = {
    "lstm": ({"model.cell": '"lstm"'}, nn.LSTM, {}),
    "gru": ({"model.cell": '"gru"', "model.reset": '"after"'}, nn.GRU, {}),
    "rnn tanh": ({"model.cell": '"rnn"', "model.activation": '"tanh"'}, nn.RNN, {"nonlinearity": "tanh"}),
    "rnn relu": ({"model.cell": '"rnn"', "model.activation": '"relu"'}, nn.RNN, {"nonlinearity": "relu"}),
}
SETTINGS = {
    "data.tokens": '"char"',
    "data.split": "[0.9, 0.1, 0.0]",
    "model.layers": LAYERS,
    "model.hidden": HIDDEN,
    "model.embedding": EMBEDDING,
    "train.steps": 50,
    "train.batch": BATCH,
    "train.bptt": BPTT,
    "train.optimizer": '"adam"',
    "train.learning_rate": 0.01,
    "train.sample_length": 0,
}


def carousel(binary, *arguments):
    """The JSON object in the last line of standard output."""
    done = subprocess.run([binary, *arguments, "--json"], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def replace_model(run, model):
    """Puts PyTorch's weights in the place of the run's own."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, run / "model.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carousel", type=Path, required=True, help="the release binary")
    parser.add_argument("--data", type=Path, required=True, help="a UTF-8 text file; its first 100,000 characters are used")
    options = parser.parse_args()
    binary = options.carousel.resolve()
    torch.set_num_threads(1)
    torch.manual_seed(1)

    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        text = options.data.read_bytes().decode("utf-8")[:100_000]
        pieces = {"all": text} | {f"piece{i}": text[i * 3000 : i * 3000 + 70 + i] for i in range(3)}
        for name, piece in pieces.items():
            (folder / f"{name}.txt").write_bytes(piece.encode())
        recipe = folder / "recipe.toml"
        recipe.write_text('task = "lm"\n')

        for cell, (settings, module, extra) in CELLS.items():
            run = folder / cell.replace(" ", "-")
            sets = [f"--set={key}={value}" for key, value in (SETTINGS | settings).items()]
            carousel(binary, "train", recipe, "--data", folder / "all.txt", "--out", run, *sets)
            vocabulary = read_vocabulary(run)

            def make():
                recurrent = module(EMBEDDING, HIDDEN, LAYERS, batch_first=True, **extra)
                return CharModel(recurrent, len(vocabulary), EMBEDDING, HIDDEN)

            def compare(way, model):
                nonlocal worst
                difference, size = 0.0, ""
                for name, piece in pieces.items():
                    theirs = evaluate(model, encode(piece, vocabulary), BATCH, BPTT)
                    ours = carousel(binary, "eval", run, "--data", folder / f"{name}.txt")["loss"]
                    difference = max(difference, abs(ours / theirs - 1))
                    size = size or f"{ours:.6f} | {theirs:.6f}"
                worst = max(worst, difference)
                rows.append(f"| {cell} | {way} | {size} | {difference:.1e} |")
                print(rows[-1], flush=True)

            model = make()
            tensors = load_file(run / "model.safetensors")
            prefix = "recurrent."
            recurrent = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            model.recurrent.load_state_dict(recurrent)  # strict: every name and shape must fit
            model.load_state_dict(tensors)
            compare("Carousel to PyTorch", model)

            model = make()
            replace_model(run, model)
            compare("PyTorch to Carousel", model)
            shutil.rmtree(run)

    version = subprocess.run([binary, "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    lines = [
        "## Models pass between Carousel and PyTorch",
        "",
        f"{LAYERS} layers of {HIDDEN}, {len(text):,} characters of `{options.data.name}`; nats per character on all of",
        "it, and the largest relative difference over it and three pieces of about 70 characters.",
        "",
        "| cell | way | Carousel | PyTorch | difference |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"{version}; PyTorch {torch.__version__}; {results.machine()}; {datetime.date.today()}. "
        "Written by `bench/interchange.py`.",
    ]
    results.write_section("interchange", "\n".join(lines))
    sys.exit(0 if worst <= 1e-5 else 1)


if __name__ == "__main__":
    main()

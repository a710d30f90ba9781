"""Trains the character model in Carousel and in PyTorch, one after the other, and compares the curves.

    cargo build --release
    python bench/compare_char_lm.py --carousel target/release/carousel --data FILE

Both start from the same weights (Carousel's), read the same batches in the same order, and use Adam 2e-3 and
a global norm clipped at 5. Writes the section `char_lm` of RESULTS.md, and exits 1 where the held-out losses
differ by more than 1 % at the end of any epoch.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
from char_lm import train_length

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "char-rnn.toml"
BATCH, BPTT = 50, 50
# Nothing here depends on what the recipe says.
SETTINGS = {
    "data.tokens": '"char"',
    "data.split": "[0.9, 0.1, 0.0]",
    "model.cell": '"lstm"',
    "model.layers": 2,
    "model.hidden": 128,
    "model.embedding": 128,
    "model.forget_bias": 1.0,
    "train.batch": BATCH,
    "train.bptt": BPTT,
    "train.optimizer": '"adam"',
    "train.clip_norm": 5.0,
    "train.sample_length": 0,
}


def carousel_train(binary, data, out, threads, **settings):
    """Runs `carousel train` and returns its JSON line and how long it took."""
    settings = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    command = [binary, "train", RECIPE, "--data", data, "--out", out, "--threads", str(threads), "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - began


def read_curve(run, windows):
    """The losses at the end of each epoch, from a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = {}
    for line in lines:
        if line["kind"] in ("train", "valid") and line["step"] % windows == 0:
            curve.setdefault(line["step"] // windows, {})[line["kind"]] = line["loss"]
    return [{"epoch": epoch} | losses for epoch, losses in sorted(curve.items()) if "valid" in losses]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carousel", type=Path, required=True, help="the release binary")
    parser.add_argument("--data", type=Path, required=True, help="a UTF-8 text file")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    binary, data = options.carousel.resolve(), options.data.resolve()

    text = data.read_bytes().decode("utf-8")
    part = (train_length(len(text)) - 1) // BATCH
    windows = -(-part // BPTT)
    # One training line an epoch: its loss is then the epoch's mean.
    common = {"train__log_every": windows}

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # A learning rate too small to move a float32 leaves the starting weights as the run's model.
        start = folder / "start"
        carousel_train(binary, data, start, options.threads, train__steps=1, train__learning_rate=1e-30, **common)
        summary, seconds = carousel_train(
            binary, data, folder / "run", options.threads,
            train__epochs=float(options.epochs), train__learning_rate=2e-3, **common,
        )  # fmt: skip
        ours = read_curve(folder / "run", windows)

        out = folder / "curve.json"
        script = [sys.executable, HERE / "char_lm.py", "--data", data, "--out", out, "--start", start]
        sizes = ["--epochs", str(options.epochs), "--threads", str(options.threads)]
        subprocess.run([*script, *sizes, "--batch", str(BATCH), "--bptt", str(BPTT)], check=True)
        theirs = json.loads(out.read_text(encoding="utf-8"))

    if len(ours) != options.epochs:
        sys.exit(f"metrics.jsonl holds {len(ours)} epochs, expected {options.epochs}")
    rows, worst = [], 0.0
    for a, b in zip(ours, theirs["curve"], strict=True):
        difference = abs(a["valid"] / b["valid"] - 1)
        worst = max(worst, difference)
        mean = f"{a['train']:.4f}" if "train" in a else "–"
        rows.append(
            f"| {a['epoch']} | {mean} | {b['train']:.4f} | {a['valid']:.4f} | {b['valid']:.4f} | {difference:.3%} |"
        )
    version = subprocess.run([binary, "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    torch_seconds = sum(line["seconds"] for line in theirs["curve"])
    speed = f"{summary['tokens_per_second']:,.0f} characters/s" if "tokens_per_second" in summary else ""
    lines = [
        "## The same character model in Carousel and in PyTorch",
        "",
        f"`{data.name}`, {len(text):,} characters, first 90 % / last 10 %. 2x128 LSTM, embedding 128, forget bias 1,",
        f"B {BATCH}, T {BPTT}, Adam 2e-3, global norm clipped at 5, the same starting weights and batches.",
        "Nats per character at the end of each epoch (for the training part: the epoch's mean).",
        "",
        "| epoch | Carousel train | PyTorch train | Carousel held out | PyTorch held out | difference |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Largest difference of the held-out curves: **{worst:.3%}** (allowed: 1 %).",
        f"Carousel: {speed}, {seconds:.0f} s for the whole run with its evaluations and checkpoints.",
        f"PyTorch: {torch_seconds:.0f} s of training alone.",
        "",
        f"{version}; PyTorch {theirs['torch']}; {results.machine()}, {options.threads} threads; "
        f"{datetime.date.today()}. Written by `bench/compare_char_lm.py`.",
    ]
    results.write_section("char_lm", "\n".join(lines))
    print("\n".join(lines))
    sys.exit(0 if worst <= 0.01 else 1)


if __name__ == "__main__":
    main()

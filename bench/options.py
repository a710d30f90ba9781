"""What each option of training costs: runs `cargo run --release --example option_cost` and writes its table to
RESULTS.md.

    python3 bench/options.py
"""

import argparse
import subprocess
from pathlib import Path

from results import add_machine_option, machine, write_section

COMMAND = ["cargo", "run", "--release", "--quiet", "--example", "option_cost"]
HEAD = """## What options cost

A training step of a language model with each option beside the same step without: forward, loss and backward of
two layers over 1,000 words, T 64, B 32, H 256; medians, the two taking turns. The ratio is wanted below 1.10, of
layer normalisation below 1.25. A projection to half the width does 0.69 of the layers' multiply-adds and half of the
output layer's, so its ratio is to be below 1. Dropout on inputs also takes away that frames of one word share a
row of projected inputs: what is left of the word's vector differs from frame to frame."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_machine_option(parser)
    options = parser.parse_args()
    ran = subprocess.run(COMMAND, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    print(ran.stdout)
    foot = f"{machine()}. Written by `bench/options.py`, from `{' '.join(COMMAND)}`."
    text = f"{HEAD}\n\n```text\n{ran.stdout.rstrip()}\n```\n\n{foot}"
    write_section("options", text, place=options.machine)


if __name__ == "__main__":
    main()

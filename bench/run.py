"""Carousel beside its peers on this machine: one command, all tables.

    cargo build --release
    cargo build --release --manifest-path bench/peers/Cargo.toml     # optional: Burn, rust-lstm, tract
    bench/.venv/bin/python bench/run.py
    bench/.venv/bin/python bench/run.py --only layers,step --quick   # a first look; RESULTS.md stays as it is

A launch starts every program anew; within it the contestants take turns case by case. Each table gives the median
over the launches with the smallest and the largest; ratios are taken launch by launch. Every section of RESULTS.md
is written as soon as it is done. After Ctrl-C, --resume goes on where it stopped.
"""

import argparse
import datetime
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
from contestants import RUST_PEERS, Stable, variants
from record import Record, key
from sections import ALL, describe

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORD = HERE / ".record.jsonl"


class Stopped(Exception):
    """The slice of time is over."""


def measure(section, stable, record, launches, deadline):
    """Fills the record with what it lacks of a section."""
    rounds = list(section.rounds())
    for launch in range(min(launches, section.most_launches or launches)):
        started = {}
        try:
            for number, (case, contestants) in enumerate(rounds, 1):
                # Whoever comes second finds a warmer machine: they take turns.
                first = launch % len(contestants)
                for contestant in contestants[first:] + contestants[:first]:
                    if not stable.has(contestant):
                        continue
                    place = f"{section.name} {launch + 1}/{launches} {number}/{len(rounds)}  {describe(case)}"
                    one(section, stable, record, launch, contestant, case, started, deadline, place)
        finally:
            for process in started.values():
                process.close()


def one(section, stable, record, launch, contestant, case, started, deadline, place):
    """One contestant, one case, one launch, in the first launch in every variant."""
    known = variants(contestant, case)[: 1 if section.fresh else None]
    fastest = record.fastest(section.name, contestant, case, known)
    for variant in known if launch == 0 or fastest is None else [fastest]:
        if record.get(section.name, launch, contestant, variant, case) is not None:
            continue
        if time.monotonic() > deadline:
            raise Stopped
        program = stable.program(contestant)
        if program not in started:
            started[program] = stable.start(program)
            introduction = getattr(started[program], "introduction", None)
            if introduction:
                record.add(("versions", 0, program, "", ""), introduction)
        answer = started[program].measure(case | ({"variant": variant} if variant else {}))
        record.add((section.name, launch, contestant, variant, key(case)), answer)
        if section.fresh:
            started.pop(program).close()
        said = answer.get("error") or f"{answer['milliseconds']:.3f} ms"
        print(f"{place}  {contestant} {variant}: {said}", file=sys.stderr, flush=True)


def footer(section, record, stable, command):
    """Versions, machine, date and command."""
    contestants = {contestant for _, all in section.rounds() for contestant in all}
    found = [record.found.get(("versions", 0, name, "", "")) for name in sorted(map(stable.program, contestants))]
    versions = [f"{one['peer']} {one['version']}" for one in found if one]
    done = subprocess.run([stable.carousel, "--version"], stdout=subprocess.PIPE, check=True, text=True)
    peaks = [answer["peak_gflops"] for answer in record.found.values() if answer.get("level") and "peak_gflops" in answer]
    peak = f"FMA peak {sorted(peaks)[len(peaks) // 2]:.0f} GFLOP/s; " if peaks else ""
    parts = "; ".join([done.stdout.strip(), *versions])
    machine = f"{results.machine()}, {stable.threads} threads"
    return f"{parts}; {machine}; {peak}{datetime.date.today()}. Written by `{command}`."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="one launch, printed; RESULTS.md stays as it is")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--resume", action="store_true", help="go on with the launches of an interrupted run")
    parser.add_argument("--slice", type=float, metavar="S", help="stop after S seconds; --resume goes on. Ends with status 1")
    parser.add_argument("--carousel", type=Path, default=ROOT / "target" / "release" / "carousel")
    parser.add_argument("--peers", type=Path, default=HERE / "peers" / "target" / "release" / "carousel-peers")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(ALL)
    for name in names:
        if name not in ALL:
            parser.error(f"--only: {name} is no section, expected {', '.join(ALL)}")
    if options.launches < 1 or options.threads < 1:
        parser.error("--launches and --threads start at 1")
    if not options.carousel.exists():
        sys.exit(f"{options.carousel} is not there; run `cargo build --release` or name it with --carousel")
    if not options.peers.exists():
        print(f"{options.peers} is not there: without {', '.join(RUST_PEERS)}", file=sys.stderr)

    launches = 1 if options.quick else options.launches
    deadline = time.monotonic() + options.slice if options.slice else float("inf")
    stable = Stable(options.carousel.resolve(), options.peers.resolve(), options.threads)
    # Going on with another program would mix two versions in one table.
    digest = hashlib.sha256(options.carousel.read_bytes()).hexdigest()[:16]
    header = {"carousel": digest, "threads": options.threads}
    try:
        resumed = options.resume and RECORD.exists()
        record = Record.resume(RECORD, header) if resumed else Record(None if options.quick else RECORD, header)
    except ValueError as error:
        sys.exit(str(error))
    command = "bench/run.py" + (f" --only {options.only}" if options.only else "")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            section = ALL[name](stable, folder)
            try:
                measure(section, stable, record, launches, deadline)
            except (Stopped, KeyboardInterrupt):
                sys.exit(f"stopped in {name}; --resume goes on")
            lines = [f"## {section.title}", "", *section.lines(record), "", footer(section, record, stable, command)]
            print("\n".join(lines), end="\n\n", flush=True)
            if not options.quick:
                results.write_section(name, "\n".join(lines))


if __name__ == "__main__":
    main()

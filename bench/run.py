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
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
from contestants import RUST_PEERS, PeerGone, Stable, variants
from record import Record, key
from sections import ALL, describe

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORD = HERE / ".record.jsonl"


# Below this share of the best peak seen, something else ran beside the bench.
QUIET = 0.9
TRIES = 5


class Stopped(Exception):
    """The slice of time is over."""


class Watch:
    """Sees whether the machine is the bench's alone, by what multiply-adds reach on all threads."""

    PLACE = ("peak", 0, "", "", "")

    def __init__(self, stable, record):
        self.stable, self.record = stable, record
        for _ in range(3):
            self.is_quiet()
        print(f"multiply-adds reach {self.best():.0f} GFLOP/s on {stable.threads} threads", file=sys.stderr)

    def best(self):
        """The best so far, that of a run that goes on included."""
        return self.record.found.get(self.PLACE, {"gflops": 0.0})["gflops"]

    def is_quiet(self):
        peak = self.stable.peak()
        if peak > self.best():
            self.record.add(self.PLACE, {"gflops": peak})
        return peak >= QUIET * self.best()


class Measuring:
    """One section on its way."""

    def __init__(self, section, stable, record, watch, launches, deadline):
        self.section, self.stable, self.record, self.watch = section, stable, record, watch
        self.launches = min(launches, section.most_launches or launches)
        self.deadline = deadline
        self.started = {}

    def run(self):
        """Fills the record with what it lacks of the section."""
        rounds = list(self.section.rounds())
        for launch in range(self.launches):
            try:
                for number, (case, contestants) in enumerate(rounds, 1):
                    # Whoever comes second finds a warmer machine: they take turns.
                    first = launch % len(contestants)
                    turn = [one for one in contestants[first:] + contestants[:first] if self.stable.has(one)]
                    place = f"{self.section.name} {launch + 1}/{self.launches} {number}/{len(rounds)}"
                    self.turn(launch, case, turn, f"{place}  {describe(case)}")
            finally:
                for process in self.started.values():
                    process.close()
                self.started = {}

    def missing(self, launch, case, turn):
        """Who has not been measured yet: (contestant, variant); in the first launch every variant."""
        for contestant in turn:
            known = variants(contestant, case)[: 1 if self.section.fresh else None]
            fastest = self.record.fastest(self.section.name, contestant, case, known)
            for variant in known if launch == 0 or fastest is None else [fastest]:
                if self.record.get(self.section.name, launch, contestant, variant, case) is None:
                    yield contestant, variant

    def turn(self, launch, case, turn, place):
        """All contestants on one case, again where something else ran meanwhile."""
        missing = list(self.missing(launch, case, turn))
        for _ in range(TRIES if missing else 0):
            if time.monotonic() > self.deadline:
                raise Stopped
            answers = [self.one(contestant, case, variant, place) for contestant, variant in missing]
            if self.watch.is_quiet():
                break
            print(f"{place}  something else is running; once more", file=sys.stderr, flush=True)
        else:
            if missing:
                sys.exit(f"{place}: the machine is busy; let nothing else run, then go on with --resume")
        for (contestant, variant), answer in zip(missing, answers if missing else []):
            self.record.add((self.section.name, launch, contestant, variant, key(case)), answer)

    def one(self, contestant, case, variant, place):
        answer = self.ask(contestant, case, variant)
        said = answer.get("error") or f"{answer['milliseconds']:.3f} ms"
        print(f"{place}  {' '.join([contestant, variant]).strip()}: {said}", file=sys.stderr, flush=True)
        return answer

    def ask(self, contestant, case, variant):
        program = self.stable.program(contestant)
        try:
            if program not in self.started:
                self.started[program] = self.stable.start(program)
                introduction = getattr(self.started[program], "introduction", None)
                if introduction:
                    self.record.add(("versions", 0, program, "", ""), introduction)
            answer = self.started[program].measure(case | ({"variant": variant} if variant else {}))
        except PeerGone as gone:
            # Peers are optional; the others go on without it.
            self.stable.gone.add(program)
            self.started.pop(program, None)
            return {"error": str(gone)}
        if self.section.fresh:
            self.started.pop(program).close()
        return answer


def footer(section, record, stable, peak, command):
    """Versions, machine, date and command."""
    contestants = {contestant for _, all in section.rounds() for contestant in all}
    found = [record.found.get(("versions", 0, name, "", "")) for name in sorted(map(stable.program, contestants))]
    versions = [f"{one['peer']} {one['version']}" for one in found if one]
    done = subprocess.run([stable.carousel, "--version"], stdout=subprocess.PIPE, check=True, text=True)
    parts = "; ".join([done.stdout.strip(), *versions])
    machine = f"{results.machine()}, {stable.threads} threads"
    return f"{parts}; {machine}, FMA peak {peak:.0f} GFLOP/s; {datetime.date.today()}. Written by `{command}`."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="one launch, printed; RESULTS.md stays as it is")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores)
    results.add_machine_option(parser)
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
    header = {"carousel": digest, "threads": options.threads, "machine": options.machine}
    try:
        resumed = options.resume and RECORD.exists()
        record = Record.resume(RECORD, header) if resumed else Record(None if options.quick else RECORD, header)
    except ValueError as error:
        sys.exit(str(error))
    watch = Watch(stable, record)
    command = "bench/run.py" + (f" --only {options.only}" if options.only else "")
    command += f" --machine {shlex.quote(options.machine)}" if options.machine else ""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            section = ALL[name](stable, folder)
            try:
                Measuring(section, stable, record, watch, launches, deadline).run()
            except (Stopped, KeyboardInterrupt):
                sys.exit(f"stopped in {name}; --resume goes on")
            lines = [f"## {section.title}", "", *section.lines(record), "", footer(section, record, stable, watch.best(), command)]
            print("\n".join(lines), end="\n\n", flush=True)
            if not options.quick:
                results.write_section(name, "\n".join(lines), place=options.machine)


if __name__ == "__main__":
    main()

"""The programs that the bench runs: Carousel's binary, and peers that answer one line with one line."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

# What each name adds to Carousel's command.
CAROUSEL = {
    "Carousel": [],
    "Carousel kernels": ["--kernel"],
    "Carousel parts": ["--parts"],
    "Carousel avx2": ["--level", "avx2"],
    "Carousel bf16": ["--precision", "bf16"],
    "Carousel int8": ["--precision", "int8"],
}
RUST_PEERS = {"Burn": "burn", "rust-lstm": "rust-lstm", "tract": "tract"}

# Ways in which a peer can do the same; the fastest in the first launch stands for it.
VARIANTS = {
    ("PyTorch", "layer"): ["eager", "compile"],
    ("PyTorch", "model"): ["eager", "compile"],
    ("PyTorch", "translate"): ["eager", "compile"],
    ("PyTorch", "step"): ["module"],
    ("PyTorch cells", "step"): ["cells", "cells compiled"],
    ("onnxruntime", "step"): ["session", "binding"],
}


def variants(contestant, case):
    return VARIANTS.get((contestant, case["bench"]), [""])


def carousel_arguments(case):
    """The words after `carousel` that time a case."""
    kind = case["bench"]
    words = ["bench", kind, "--seconds", case["seconds"], "--json"]
    if kind == "layer":
        words += ["--cell", case["cell"], "--shape", ",".join(map(str, case["shape"])), "--mode", case["mode"]]
        words += ["--input", case["input"], "--layers", case["layers"]]
        words += ["--lengths", "uniform" if "lengths" in case else "full"]
    elif kind == "step":
        words += ["--cell", case["cell"], "--hidden", case["hidden"], "--layers", case["layers"]]
        words += ["--batch", case["batch"]]
    elif kind == "translate":
        sets = {f"model.{name}": case[name] for name in ("cell", "layers", "hidden", "embedding")}
        sets |= {"train.clip_norm": case["clip_norm"]}
        for name in ("vocabulary", "lengths"):
            words += [f"--{name}", ",".join(map(str, case[name]))]
        words += ["--mode", case["mode"], "--sentences", case["sentences"], "--beam", case["beam"]]
        words += [f"--set={name}={value}" for name, value in sets.items()]
    else:
        sets = {f"model.{name}": case[name] for name in ("cell", "layers", "hidden", "embedding")}
        sets |= {f"train.{name}": case[name] for name in ("batch", "bptt", "optimizer", "clip_norm")}
        words += ["--vocabulary", case["vocabulary"]]
        words += [f"--set={name}={value}" for name, value in sets.items()]
    return list(map(str, words))


class Carousel:
    """The release binary: a process a case."""

    def __init__(self, binary, threads, options=()):
        self.binary, self.more = binary, ["--threads", str(threads), *options]

    def measure(self, case):
        command = [self.binary, *carousel_arguments(case), *self.more]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            return {"error": done.stderr.strip()}
        answer = json.loads(done.stdout.splitlines()[-1])
        if "lengths" in case and answer["lengths"] != case["lengths"]:
            sys.exit("carousel drew other lengths than it was asked for; is the binary of this checkout?")
        answer.pop("lengths", None)
        return answer

    def close(self):
        pass


class PeerGone(Exception):
    """A peer is not installed, or ended by itself."""


class Peer:
    """A process that stays for a whole launch."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.introduction = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise PeerGone(f"`{shlex.join(self.process.args)}` ended with status {self.process.wait()}")
        return json.loads(line)

    def measure(self, case):
        try:
            self.process.stdin.write(json.dumps(case) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # It is gone; reading tells how.
        return self.read()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()


class Stable:
    """Knows where the programs are and how to start them."""

    def __init__(self, carousel, peers, threads):
        self.carousel, self.peers, self.threads = carousel, peers, threads
        # Programs that could not be started, or ended by themselves.
        self.gone = set()

    def has(self, contestant):
        return self.program(contestant) not in self.gone and (contestant not in RUST_PEERS or self.peers.exists())

    def program(self, contestant):
        """The process that serves a contestant; some share one."""
        return "PyTorch" if contestant.startswith("PyTorch") else contestant

    def peak(self):
        """What multiply-adds reach here and now, in GFLOP/s."""
        words = ["bench", "layer", "--shape", "1,1,1", "--seconds", "0", "--json", "--threads", str(self.threads)]
        done = subprocess.run([self.carousel, *words], stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])["peak_gflops"]

    def start(self, program):
        threads = str(self.threads)
        if program in CAROUSEL:
            return Carousel(self.carousel, threads, CAROUSEL[program])
        if program in RUST_PEERS:
            command = [self.peers, RUST_PEERS[program]]
        else:
            script = {"PyTorch": "torch_peer.py", "onnxruntime": "onnx_peer.py"}[program]
            command = [sys.executable, HERE / script, "--threads", threads]
        return Peer(command, {"RAYON_NUM_THREADS": threads})

"""What the bench compares: the cases of every section, and the table that its measurements make."""

import json
import subprocess
import tempfile
from pathlib import Path

from contestants import variants
from record import median, milliseconds, percent, ratios, spread, table, verdict

CELLS = ["lstm", "gru", "rnn"]
MODES = ["train", "infer"]
SHAPES = [(64, 32, 256), (64, 64, 512), (50, 100, 128), (128, 16, 1024)]
# Least ratio to PyTorch, training and inference, in the order of CELLS.
LAYER_TARGETS = {
    (64, 32, 256): [(1.4, 1.1), (2.1, 2.1), (1.8, 2.2)],
    (64, 64, 512): [(1.3, 1.05), (1.65, 1.75), (1.45, 1.5)],
    (50, 100, 128): [(1.4, 1.2), (2.0, 2.4), (1.9, 2.1)],
    (128, 16, 1024): [(1.35, 1.15), (2.1, 2.2), (2.0, 2.3)],
}
# T, B, H, I.
ODD_SHAPES = [(64, 32, 100, 100), (64, 32, 200, 200), (35, 20, 650, 650), (64, 20, 256, 40), (20, 20, 200, 333)]
LONG_SHAPE = (500, 32, 64)
STEP_SIZES = [64, 128, 256, 512, 1024]
# Least ratio to PyTorch's nn.LSTM.
STEP_TARGETS = {512: 15.0, 1024: 10.0}
# Least ratio to PyTorch, and the model.
MODELS = {
    "characters, 2x512": (
        1.75,
        dict(vocabulary=65, embedding=512, hidden=512, batch=64, bptt=64, optimizer="adam"),
    ),
    "words, 2x200": (
        1.4,
        dict(vocabulary=10_000, embedding=200, hidden=200, batch=20, bptt=20, optimizer="sgd"),
    ),
    "words, 2x650": (
        1.3,
        dict(vocabulary=10_000, embedding=650, hidden=650, batch=20, bptt=35, optimizer="sgd"),
    ),
}
# Least ratio to PyTorch in training and in beam search, and the model.
TRANSLATORS = {
    "spelling, V 60": ((2.0, 3.0), dict(vocabulary=[60, 60], embedding=64, hidden=256, sentences=128)),
    "words, V 6,000": ((1.4, 3.0), dict(vocabulary=[6000, 6000], embedding=256, hidden=256, sentences=64)),
}


def layer(cell, shape, mode, width=None, **more):
    time, batch, hidden = shape
    sizes = {"shape": [time, batch, hidden], "input": width or hidden, "layers": 2}
    return {"bench": "layer", "cell": cell, "mode": mode, "seconds": 0.3} | sizes | more


def step(cell, hidden):
    return {"bench": "step", "cell": cell, "hidden": hidden, "layers": 2, "batch": 1, "seconds": 0.3}


def model(sizes):
    return {"bench": "model", "cell": "lstm", "layers": 2, "clip_norm": 5.0, "seconds": 0.5} | sizes


def translate(sizes, mode):
    more = {"cell": "lstm", "layers": 1, "lengths": [4, 16], "beam": 5, "clip_norm": 5.0, "seconds": 0.5}
    return {"bench": "translate", "mode": mode} | more | sizes


def comma(sizes):
    return ",".join(map(str, sizes))


def describe(case):
    """A case in a few words."""
    if case["bench"] == "layer":
        ragged = " ragged" if "lengths" in case else ""
        width = f" I {case['input']}" if case["input"] != case["shape"][2] else ""
        return f"{case['cell']} {comma(case['shape'])}{width} {case['mode']}{ragged}"
    if case["bench"] == "step":
        return f"{case['cell']} 2x{case['hidden']} step"
    if case["bench"] == "translate":
        return f"{case['vocabulary'][1]} tokens {case['mode']}"
    return f"{case['vocabulary']} tokens 2x{case['hidden']}"


class Section:
    """A part of RESULTS.md. `rounds` lists (case, contestants); `lines` makes the text from the record."""

    name = title = ""
    # Launches where fewer than usual are enough.
    most_launches = None
    # Whether every measurement needs a process of its own.
    fresh = False

    def __init__(self, stable, folder):
        self.stable, self.folder = stable, folder

    def series(self, record, contestant, case, field="milliseconds"):
        return record.series(self.name, contestant, case, variants(contestant, case), field)

    def ratio(self, record, case, ours="Carousel", theirs="PyTorch"):
        """How many times faster than the other, launch by launch."""
        return ratios(self.series(record, theirs, case), self.series(record, ours, case))

    def row(self, record, case, target=None):
        """Times of both, their ratio with its target, and shares of the peak."""
        ours, theirs = self.series(record, "Carousel", case), self.series(record, "PyTorch", case)
        ratio = ratios(theirs, ours)
        share = median(self.series(record, "Carousel", case, "share_of_peak"))
        middle = median(ratio)
        their_share = None if share is None or middle is None else share / middle
        return [
            milliseconds(ours),
            milliseconds(theirs),
            spread(ratio),
            "–" if target is None else f"≥ {target:g}",
            verdict(middle, least=target),
            percent(share),
            percent(their_share),
        ]

    HEAD = ["Carousel, ms", "PyTorch, ms", "times faster", "target", "", "of peak", "PyTorch of peak"]


class Layers(Section):
    name, title = "layers", "Layers over whole sequences"

    cases = [(shape, cell, mode) for shape in SHAPES for cell in CELLS for mode in MODES]
    # Where the layer's own cost is largest: it does not grow with the work.
    overhead = [(shape, cell, mode) for shape in (SHAPES[0], SHAPES[2]) for cell in CELLS for mode in MODES]

    def rounds(self):
        for case in self.cases:
            shape, cell, mode = case
            bare = ["Carousel kernels"] if case in self.overhead else []
            yield layer(cell, shape, mode), ["Carousel", *bare, "PyTorch"]

    def lines(self, record):
        rows = []
        for shape, cell, mode in self.cases:
            target = LAYER_TARGETS[shape][CELLS.index(cell)][MODES.index(mode)]
            rows.append([comma(shape), cell, mode, *self.row(record, layer(cell, shape, mode), target)])
        bare = []
        for shape, cell, mode in self.overhead:
            case = layer(cell, shape, mode)
            kernels = self.series(record, "Carousel kernels", case)
            cost = [ratio - 1 for ratio in ratios(self.series(record, "Carousel", case), kernels)]
            bare.append([comma(shape), cell, mode, milliseconds(kernels), spread([100 * one for one in cost], "{:.1f}")])
        return [
            "Two layers, forward and backward with all gradients (train) or forward (infer), 32-bit floats, through",
            "the Burn layer. PyTorch: `nn.LSTM`, `nn.GRU`, `nn.RNN`, time first, the faster of eager and",
            "`torch.compile`, `inference_mode` for inference. What PyTorch reaches of the peak bounds the ratio: where it",
            "reaches 80 %, nobody can be more than 1.25 times as fast.",
            "",
            *table(["T,B,H", "cell", "", *self.HEAD], rows),
            "",
            "What the Burn layer adds to the bare kernels, which write into buffers made beforehand:",
            "",
            *table(["T,B,H", "cell", "", "kernels, ms", "layer adds, %"], bare),
        ]


class Odd(Section):
    name, title = "odd", "Odd sizes"

    cases = [(shape, cell, mode) for shape in ODD_SHAPES for cell in CELLS for mode in MODES]

    def case(self, shape, cell, mode):
        return layer(cell, shape[:3], mode, width=shape[3])

    def rounds(self):
        return [(self.case(*case), ["Carousel", "PyTorch"]) for case in self.cases]

    def lines(self, record):
        rows = [
            [comma(shape), cell, mode, *self.row(record, self.case(shape, cell, mode), 1.0)]
            for shape, cell, mode in self.cases
        ]
        return [
            "As above, with sizes that are no multiple of a vector's, batches of 20 and inputs of another width.",
            "",
            *table(["T,B,H,I", "cell", "", *self.HEAD], rows),
        ]


class Ragged(Section):
    name, title = "ragged", "Ragged batches"

    cases = [(shape, cell, mode) for shape in [*SHAPES, LONG_SHAPE] for cell in CELLS for mode in MODES]

    def __init__(self, stable, folder):
        super().__init__(stable, folder)
        self.lengths = {}

    def pair(self, shape, cell, mode):
        """The padded case and the packed one."""
        if shape not in self.lengths:
            # Lengths depend on nothing but T and B, so the smallest layer tells them.
            sizes = f"{shape[0]},{shape[1]},1"
            words = ["bench", "layer", "--shape", sizes, "--cell", "rnn", "--lengths", "uniform", "--seconds", "0", "--json"]
            done = subprocess.run([self.stable.carousel, *words], stdout=subprocess.PIPE, check=True, text=True)
            self.lengths[shape] = json.loads(done.stdout.splitlines()[-1])["lengths"]
        padded = layer(cell, shape, mode)
        return padded, padded | {"lengths": self.lengths[shape]}

    def rounds(self):
        for case in self.cases:
            padded, packed = self.pair(*case)
            # Both of ours at once: their ratio is what the target is about.
            yield padded, ["Carousel", "PyTorch"] if case[0] == LONG_SHAPE else ["Carousel"]
            yield packed, ["Carousel", "PyTorch"]

    def lines(self, record):
        rows = []
        for shape, cell, mode in self.cases:
            padded, packed = self.pair(shape, cell, mode)
            share = sum(packed["lengths"]) / (shape[0] * shape[1])
            most = share + (0.09 if mode == "infer" else 0.03 if shape[1] >= 64 else 0.06)
            ours = ratios(self.series(record, "Carousel", packed), self.series(record, "Carousel", padded))
            theirs = self.series(record, "PyTorch", packed)
            # PyTorch's padded time of the common shapes was measured in the section on layers.
            home = self.name if shape == LONG_SHAPE else Layers.name
            their_padded = record.series(home, "PyTorch", padded, variants("PyTorch", padded))
            times = self.ratio(record, packed)
            least = 2.2 if mode == "train" else None
            rows.append(
                [
                    comma(shape),
                    cell,
                    mode,
                    percent(share),
                    spread(ours),
                    f"≤ {most:.2f}",
                    verdict(median(ours), most=most),
                    milliseconds(self.series(record, "Carousel", packed)),
                    milliseconds(theirs),
                    spread(ratios(theirs, their_padded)),
                    spread(times),
                    "–" if least is None else f"≥ {least:g}",
                    verdict(median(times), least=least),
                ]
            )
        head = ["T,B,H", "cell", "", "real frames", "packed / padded", "target", "", "Carousel packed, ms"]
        head += ["PyTorch packed, ms", "its packed / padded", "times faster", "target", ""]
        return [
            "Lengths drawn evenly from T/5 to T. Packed: `Ragged` here, a `PackedSequence` in PyTorch, both made before",
            "the clock starts. Padded: every sequence at full length.",
            "",
            *table(head, rows),
        ]


class Step(Section):
    name, title = "step", "One step at a time"

    cases = [("lstm", hidden) for hidden in STEP_SIZES] + [("gru", 512), ("rnn", 512)]
    others = ["PyTorch", "PyTorch cells", "onnxruntime", "tract"]

    def rounds(self):
        try:
            from onnx_model import write_step
        except ImportError:
            # Without the package there is no file for onnxruntime and tract to read.
            for one in self.cases:
                yield step(*one), ["Carousel", *self.others[:2]]
            return
        for cell, hidden in self.cases:
            case = step(cell, hidden)
            path = Path(self.folder) / f"{cell}-{hidden}.onnx"
            if not path.exists():
                write_step(case, path)
            yield case | {"onnx": str(path)}, ["Carousel", *self.others]

    def lines(self, record):
        rows = []
        for cell, hidden in self.cases:
            case = step(cell, hidden)
            row = [cell, f"2x{hidden}", milliseconds(self.series(record, "Carousel", case))]
            for other in self.others:
                least = {"PyTorch": STEP_TARGETS.get(hidden), "PyTorch cells": None}.get(other, 0.95 if hidden > 512 else 1.0)
                if cell != "lstm" or (other == "tract" and hidden > 512):
                    least = None
                times = self.ratio(record, case, theirs=other)
                target = "" if least is None else f"; ≥ {least:g}: {verdict(median(times), least=least)}"
                row.append(f"{milliseconds(self.series(record, other, case))}; {spread(times, '{:.1f}')}{target}")
            rows.append(row)
        head = ["cell", "", "Carousel, ms", "PyTorch module", "PyTorch cells", "onnxruntime", "tract"]
        return [
            "Batch 1, weights warm, the state fed back. Each peer: milliseconds; how many times slower than Carousel.",
            "PyTorch module: `nn.LSTM` and so on with a sequence of one step; cells: `nn.LSTMCell` and so on for each",
            "layer, the faster of eager and `torch.compile`. onnxruntime: the faster of plain arrays and bound buffers.",
            "",
            *table(head, rows),
        ]


class Model(Section):
    name, title = "model", "Whole training steps"

    def rounds(self):
        return [(model(sizes), ["Carousel parts", "PyTorch"]) for _, sizes in MODELS.values()]

    def lines(self, record):
        rows = []
        for name, (least, sizes) in MODELS.items():
            case = model(sizes)
            ours, theirs = self.series(record, "Carousel parts", case), self.series(record, "PyTorch", case)
            times = ratios(theirs, ours)
            tokens = sizes["batch"] * sizes["bptt"] * 1e3
            rate = lambda values: spread([value and tokens / value for value in values], "{:,.0f}")
            outside = median(self.series(record, "Carousel parts", case, "outside_share"))
            rows.append(
                [
                    name,
                    milliseconds(ours),
                    rate(ours),
                    rate(theirs),
                    spread(times),
                    f"≥ {least:g}",
                    verdict(median(times), least=least),
                    percent(median(self.series(record, "Carousel parts", case, "share_of_peak"))),
                    percent(outside),
                    verdict(outside, most=0.1) if sizes["optimizer"] == "adam" else "",
                ]
            )
        head = ["model", "step, ms", "tokens/s", "PyTorch tokens/s", "times faster", "target", "", "of peak"]
        head += ["outside the stack", "≤ 10 %"]
        return [
            "One step of training a language model: embedding, two LSTM layers, output layer, cross-entropy, backward,",
            "clipping by the global norm, update. Characters: V 65, embedding 512, B 64, T 64, Adam. Words: V 10,000,",
            "embedding as wide as a layer, B 20, T 20 (2x200) or 35 (2x650), SGD. PyTorch: `nn.LSTM`, `cross_entropy`,",
            "fused optimiser, `clip_grad_norm_`; the faster of eager and `torch.compile`. Outside the stack: embedding,",
            "output layer with loss, clipping and update, timed by themselves.",
            "",
            *table(head, rows),
        ]


class Translate(Section):
    name, title = "translate", "Translation"

    cases = [(name, mode) for name in TRANSLATORS for mode in ("train", "decode")]

    def case(self, name, mode):
        return translate(TRANSLATORS[name][1], mode)

    def rounds(self):
        return [(self.case(*one), ["Carousel", "PyTorch"]) for one in self.cases]

    def lines(self, record):
        rows = []
        for name, mode in self.cases:
            least = TRANSLATORS[name][0][mode == "decode"]
            what = "training step" if mode == "train" else "beam of 5"
            rows.append([name, what, *self.row(record, self.case(name, mode), least)])
        return [
            "An LSTM reads both ways, another writes, with scaled general attention: 1x256 each. Spelling: V 60, embedding 64, 128",
            "words; words: V 6,000, embedding 256, 64 sentences; 4 to 16 tokens each, evenly spread. A training step is",
            "forward, cross-entropy, backward, clipping by the global norm, Adam; the beam follows 5 hypotheses of all",
            "sentences, each as long as its source. PyTorch: a packed encoder, the decoder one call over all steps in",
            "training, a batched beam search; the faster of eager and `torch.compile`. Shares of the peak count products",
            "with weights alone.",
            "",
            *table(["model", "", *self.HEAD], rows),
        ]


class Memory(Section):
    name, title = "memory", "Memory of training"
    most_launches, fresh = 3, True

    def rounds(self):
        return [(model(sizes) | {"seconds": 0}, ["Carousel", "PyTorch"]) for _, sizes in MODELS.values()]

    def lines(self, record):
        rows = []
        for name, (_, sizes) in MODELS.items():
            case = model(sizes)
            size = lambda contestant, field: [
                value and value / 2**20 for value in record.series(self.name, contestant, case, ["eager"] if contestant == "PyTorch" else [""], field)
            ]
            ours, theirs = size("Carousel", "peak_memory_bytes"), size("PyTorch", "peak_memory_bytes")
            base = size("PyTorch", "base_memory_bytes")
            own = [peak - start for peak, start in zip(theirs, base) if peak and start]
            rows.append(
                [
                    name,
                    spread(ours, "{:.0f}"),
                    spread(theirs, "{:.0f}"),
                    spread(own, "{:.0f}"),
                    verdict(median(ours), most=median(theirs)),
                    verdict(median(ours), most=median(own)) if own else "",
                ]
            )
        head = ["model", "Carousel, MiB", "PyTorch, MiB", "PyTorch without its library", "not above", "not above without"]
        return [
            "The most memory that a process held (resident set) while it trained the models above, four steps each.",
            "PyTorch is also given without what the process held before it made a model.",
            "",
            *table(head, rows),
        ]


class Level(Section):
    name, title = "level", "Processors without AVX-512"

    cases = [(shape, cell, mode) for shape in SHAPES[:2] for cell in CELLS for mode in MODES]

    def rounds(self):
        return [(layer(cell, shape, mode), ["Carousel avx2"]) for shape, cell, mode in self.cases]

    def lines(self, record):
        rows = []
        for shape, cell, mode in self.cases:
            case = layer(cell, shape, mode)
            share = self.series(record, "Carousel avx2", case, "share_of_peak")
            times = milliseconds(self.series(record, "Carousel avx2", case))
            shown = spread([value and 100 * value for value in share], "{:.0f}")
            rows.append([comma(shape), cell, mode, times, shown, "≥ 70", verdict(median(share), least=0.7)])
        return [
            "With `--level avx2`, as a share of what multiply-adds of that level reach here.",
            "",
            *table(["T,B,H", "cell", "", "Carousel, ms", "of peak, %", "target", ""], rows),
        ]


class Precision(Section):
    name, title = "precision", "Fewer bits"

    layers = [(shape, cell, mode) for shape in (SHAPES[0], SHAPES[1]) for cell in CELLS for mode in MODES]
    steps = [(cell, 1024) for cell in CELLS]

    def rounds(self):
        for shape, cell, mode in self.layers:
            yield layer(cell, shape, mode), ["Carousel", "Carousel bf16"]
        for cell, hidden in self.steps:
            yield step(cell, hidden), ["Carousel", "Carousel int8"]

    def lines(self, record):
        rows = []
        for shape, cell, mode in self.layers:
            least = 1.8 if mode == "infer" else 1.5
            rows.append(self.against(record, layer(cell, shape, mode), "bf16", f"{comma(shape)} {mode}", least))
        for cell, hidden in self.steps:
            rows.append(self.against(record, step(cell, hidden), "int8", f"2x{hidden} step", 8.0))
        return [
            "bf16: products of 16-bit floats over whole sequences; int8: weights of single steps. Against Carousel's own",
            "32-bit floats.",
            "",
            *table(["", "cell", "", "f32, ms", "ms", "times faster", "target", ""], rows),
        ]

    def against(self, record, case, precision, what, least):
        full, fewer = self.series(record, "Carousel", case), self.series(record, f"Carousel {precision}", case)
        times = ratios(full, fewer)
        shown = milliseconds(fewer) if times else "not in this version"
        kept = verdict(median(times), least=least)
        return [precision, case["cell"], what, milliseconds(full), shown, spread(times), f"≥ {least:g}", kept]


class Rust(Section):
    name, title = "rust", "Other crates"

    cases = [((64, 32, 256), cell, mode) for cell in CELLS for mode in MODES]
    rust_lstm_cases = [((64, 32, 256), cell, mode) for cell in CELLS[:2] for mode in MODES]

    def rounds(self):
        for one in self.cases:
            shape, cell, mode = one
            more = ["rust-lstm"] if one in self.rust_lstm_cases else []
            yield layer(cell, shape, mode) | {"seconds": 0.1, "fewest": 2}, ["Carousel", "Burn", *more]

    def lines(self, record):
        rows = []
        for shape, cell, mode in self.cases:
            case = layer(cell, shape, mode)
            row = [comma(shape), cell, mode, milliseconds(self.series(record, "Carousel", case))]
            for other in ["Burn", "rust-lstm"]:
                row += [milliseconds(self.series(record, other, case)), spread(self.ratio(record, case, theirs=other), "{:.1f}")]
            rows.append(row)
        return [
            "Two layers each. Burn's own `Lstm`, `Gru` and `Rnn` on its CPU backend with threads, SIMD and AVX-512;",
            "rust-lstm computes in double precision on one thread and has no plain recurrent cell.",
            "",
            *table(["T,B,H", "cell", "", "Carousel, ms", "Burn, ms", "times faster", "rust-lstm, ms", "times faster"], rows),
        ]


ALL = {section.name: section for section in [Layers, Odd, Ragged, Step, Model, Translate, Memory, Level, Precision, Rust]}

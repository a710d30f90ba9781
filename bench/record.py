"""Measurements as they come, one JSON line each, so that a long run can stop and go on; and what follows from them.

A measurement belongs to a section, a launch (a round in which every contestant runs once, in fresh processes), a
contestant, a variant of it and a case.
"""

import json
import statistics
from pathlib import Path

# What a case says about how to measure, not about what.
HOW = ("seconds", "fewest", "onnx", "variants", "targets", "note")


def key(case):
    """A case as text, the same for the same work."""
    return json.dumps({name: value for name, value in case.items() if name not in HOW}, sort_keys=True)


class Record:
    """All measurements of a run, in memory and in a file that grows with them."""

    def __init__(self, path=None, header=None):
        """A new record, with what it was made with as its first line. Without a path nothing is kept."""
        self.path, self.header, self.found = path, header or {}, {}
        if path is not None:
            path.write_text(json.dumps(self.header) + "\n", encoding="utf-8")

    @classmethod
    def resume(cls, path, header):
        """The record in a file, where it was made with the same programs; a last line cut short is dropped."""
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        if not lines:
            raise ValueError(f"{path} is empty; start anew without --resume")
        found = json.loads(lines[0])
        different = [name for name in header if found.get(name) != header[name]]
        if different:
            what = ", ".join(f"{name} was {found.get(name)}, is {header[name]}" for name in different)
            raise ValueError(f"{path} was made otherwise ({what}); start anew without --resume")
        record = cls(None, header)
        for line in lines[1:]:
            entry = json.loads(line)
            record.found[record.place(*entry["place"])] = entry["answer"]
        record.path = path
        path.write_text("".join(lines), encoding="utf-8")
        return record

    @staticmethod
    def place(section, launch, contestant, variant, case_key):
        return (section, launch, contestant, variant, case_key)

    def add(self, place, answer):
        self.found[place] = answer
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"place": list(place), "answer": answer}) + "\n")

    def get(self, section, launch, contestant, variant, case):
        return self.found.get(self.place(section, launch, contestant, variant, key(case)))

    def fastest(self, section, contestant, case, variants):
        """The variant that was fastest in the first launch, once all have run there; else None."""
        if len(variants) == 1:
            return variants[0]
        times = {variant: self.get(section, 0, contestant, variant, case) for variant in variants}
        if any(answer is None for answer in times.values()):
            return None
        working = {variant: answer["milliseconds"] for variant, answer in times.items() if "error" not in answer}
        return min(working, key=working.get, default=variants[0])

    def series(self, section, contestant, case, variants, field="milliseconds"):
        """A field of every launch, of the variant that was fastest in the first; launches without it are None."""
        variant = self.fastest(section, contestant, case, variants)
        launches = 1 + max((place[1] for place in self.found if place[0] == section), default=-1)
        answers = [self.get(section, launch, contestant, variant, case) for launch in range(launches)]
        return [answer.get(field) if answer else None for answer in answers]


def ratios(numerators, denominators):
    """Launch by launch, where both were measured."""
    return [a / b for a, b in zip(numerators, denominators) if a is not None and b is not None]


def spread(values, form="{:.2f}"):
    """`median (smallest to largest)`, or a dash for nothing."""
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def median(values):
    """The median of what is there; None for nothing."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def verdict(value, least=None, most=None):
    """Whether a value keeps its target: `met`, `**not met**`, or nothing without a value or target."""
    if value is None or (least is None and most is None):
        return ""
    kept = (least is None or value >= least) and (most is None or value <= most)
    return "met" if kept else "**not met**"


def milliseconds(values):
    """A spread of times with as many digits as they deserve."""
    middle = median(values)
    digits = 0 if middle is None or middle >= 100 else 1 if middle >= 10 else 2 if middle >= 1 else 3
    return spread(values, f"{{:.{digits}f}}")


def percent(value):
    return "–" if value is None else f"{value * 100:.0f} %"


def table(head, rows):
    """A Markdown table; every row has one cell for each heading."""
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells for {len(head)} columns: {row}")
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]

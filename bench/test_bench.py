"""Tests of what the bench makes of its measurements. Standard library only:

    python3 -m unittest discover -s bench
"""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

import results
from contestants import VARIANTS, Peer, PeerGone, carousel_arguments
from record import Record, key, median, milliseconds, percent, ratios, spread, table, verdict
from run import Measuring, Stopped, Watch
from sections import ALL, Layers, Memory, Model, Ragged, Section, Step, Translate, layer, model, step, translate
from timing import FEWEST, timed

CASE = {"bench": "layer", "cell": "lstm", "shape": [4, 3, 16], "input": 16, "mode": "train"}


def answer(milliseconds, **more):
    return {"milliseconds": milliseconds, "share_of_peak": 0.5} | more


class RecordTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "record.jsonl"

    def test_how_a_case_is_measured_does_not_tell_it_apart(self):
        self.assertEqual(key(CASE), key(CASE | {"seconds": 3, "onnx": "/tmp/a"}))
        self.assertNotEqual(key(CASE), key(CASE | {"cell": "gru"}))

    def test_a_run_goes_on_where_it_stopped(self):
        record = Record(self.path, {"carousel": "a", "threads": 2})
        record.add(("layers", 0, "Carousel", "", key(CASE)), answer(1.0))
        record.add(("layers", 1, "Carousel", "", key(CASE)), answer(2.0))
        with self.path.open("a") as file:
            file.write('{"place": ["layers", 2, "Carou')
        resumed = Record.resume(self.path, {"carousel": "a", "threads": 2})
        self.assertEqual(resumed.series("layers", "Carousel", CASE, [""]), [1.0, 2.0])
        resumed.add(("layers", 2, "Carousel", "", key(CASE)), answer(3.0))
        again = Record.resume(self.path, {"carousel": "a", "threads": 2})
        self.assertEqual(again.series("layers", "Carousel", CASE, [""]), [1.0, 2.0, 3.0])

    def test_another_program_or_another_number_of_threads_cannot_go_on(self):
        Record(self.path, {"carousel": "a", "threads": 2})
        for header in [{"carousel": "b", "threads": 2}, {"carousel": "a", "threads": 1}]:
            with self.assertRaisesRegex(ValueError, "start anew without --resume"):
                Record.resume(self.path, header)

    def test_an_empty_file_is_refused(self):
        self.path.write_text("")
        with self.assertRaisesRegex(ValueError, "is empty"):
            Record.resume(self.path, {})

    def test_the_variant_that_was_fastest_first_stands_for_all_launches(self):
        record = Record()
        for launch, (eager, compiled) in enumerate([(5.0, 4.0), (1.0, 6.0), (1.0, 7.0)]):
            record.add(("layers", launch, "PyTorch", "eager", key(CASE)), answer(eager))
            record.add(("layers", launch, "PyTorch", "compile", key(CASE)), answer(compiled))
        self.assertEqual(record.series("layers", "PyTorch", CASE, ["eager", "compile"]), [4.0, 6.0, 7.0])

    def test_a_variant_that_fails_is_not_chosen(self):
        record = Record()
        record.add(("layers", 0, "PyTorch", "eager", key(CASE)), answer(5.0))
        self.assertIsNone(record.fastest("layers", "PyTorch", CASE, ["eager", "compile"]), "one has not run yet")
        record.add(("layers", 0, "PyTorch", "compile", key(CASE)), {"error": "no compiler"})
        self.assertEqual(record.fastest("layers", "PyTorch", CASE, ["eager", "compile"]), "eager")

    def test_what_was_not_measured_is_a_gap(self):
        record = Record()
        record.add(("layers", 1, "Carousel", "", key(CASE)), answer(2.0))
        record.add(("layers", 2, "Carousel", "", key(CASE)), {"error": "no"})
        self.assertEqual(record.series("layers", "Carousel", CASE, [""]), [None, 2.0, None])


class NumbersTest(unittest.TestCase):
    def test_ratios_are_taken_launch_by_launch(self):
        self.assertEqual(ratios([2.0, None, 9.0], [1.0, 5.0, 3.0]), [2.0, 3.0])

    def test_spreads(self):
        self.assertEqual(spread([3.0, 1.0, 2.0]), "2.00 (1.00 to 3.00)")
        self.assertEqual(spread([None, 1.5]), "1.50")
        self.assertEqual(spread([None]), "–")
        self.assertEqual(milliseconds([0.12345]), "0.123")
        self.assertEqual(milliseconds([123.4, 130.0, 140.6]), "130 (123 to 141)")
        self.assertIsNone(median([None]))
        self.assertEqual(percent(0.666), "67 %")

    def test_verdicts(self):
        self.assertEqual(verdict(1.4, least=1.4), "met")
        self.assertEqual(verdict(1.399, least=1.4), "**not met**")
        self.assertEqual(verdict(0.7, most=0.6), "**not met**")
        self.assertEqual(verdict(None, least=1.4), "")
        self.assertEqual(verdict(2.0), "")

    def test_tables_are_complete(self):
        self.assertEqual(table(["a", "b"], [[1, 2]]), ["| a | b |", "|---|---|", "| 1 | 2 |"])
        with self.assertRaises(ValueError):
            table(["a", "b"], [[1]])

    def test_the_clock_warms_up_once(self):
        runs = []
        measured = timed(0, lambda: runs.append(1))
        self.assertEqual((measured["repetitions"], len(runs)), (FEWEST, FEWEST + 1))
        self.assertLessEqual(measured["min_milliseconds"], measured["milliseconds"])


class CommandTest(unittest.TestCase):
    def check(self, case, expected):
        self.assertEqual(" ".join(carousel_arguments(case)), expected)

    def test_cases_become_commands(self):
        self.check(
            layer("gru", (64, 32, 256), "infer", width=40),
            "bench layer --seconds 0.3 --json --cell gru --shape 64,32,256 --mode infer --input 40 --layers 2 "
            "--lengths full",
        )
        self.check(
            step("lstm", 512), "bench step --seconds 0.3 --json --cell lstm --hidden 512 --layers 2 --batch 1"
        )
        self.assertIn("--lengths uniform", " ".join(carousel_arguments(layer("rnn", (4, 2, 8), "train") | {"lengths": [1, 4]})))
        words = carousel_arguments(model(dict(vocabulary=9, embedding=8, hidden=4, batch=3, bptt=2, optimizer="sgd")))
        for word in ["--vocabulary", "9", "--set=model.hidden=4", "--set=train.optimizer=sgd", "--set=train.bptt=2"]:
            self.assertIn(word, words)
        words = carousel_arguments(translate(dict(vocabulary=[9, 8], embedding=8, hidden=4, sentences=3), "decode"))
        self.assertIn("--vocabulary 9,8 --lengths 4,16 --mode decode --sentences 3 --beam 5 ", " ".join(words) + " ")
        self.assertIn("--set=model.embedding=8", words)


class PeerTest(unittest.TestCase):
    def test_a_peer_answers_line_by_line(self):
        echo = "import sys\nprint('{}', flush=True)\nfor line in sys.stdin: print(line, flush=True, end='')"
        peer = Peer([sys.executable, "-c", echo], {})
        self.assertEqual(peer.measure(CASE), CASE)
        peer.close()

    def test_a_peer_that_ends_is_told_from_one_that_answers(self):
        with self.assertRaisesRegex(PeerGone, "ended with status 3"):
            Peer([sys.executable, "-c", "raise SystemExit(3)"], {})
        peer = Peer([sys.executable, "-c", "print('{}')"], {})
        peer.process.wait()
        with self.assertRaisesRegex(PeerGone, "ended with status 0"):
            peer.measure(CASE)
        peer.close()


class FakeProcess:
    def __init__(self, program, asked):
        self.program, self.asked = program, asked

    def measure(self, case):
        if case.get("variant") == "gone":
            raise PeerGone("it ended")
        self.asked.append(f"{self.program} {case.get('variant', '')}".strip())
        return answer(1.0)

    def close(self):
        self.asked.append(f"{self.program} ends")


class FakeStable:
    threads = 2

    def __init__(self, peaks):
        self.peaks, self.asked, self.gone = iter(peaks), [], set()

    def peak(self):
        return next(self.peaks, 100.0)

    def has(self, contestant):
        return contestant not in self.gone

    def program(self, contestant):
        return contestant

    def start(self, program):
        return FakeProcess(program, self.asked)


class FakeSection(Section):
    name = "fake"

    def __init__(self, contestants):
        super().__init__(None, None)
        self.contestants = contestants

    def rounds(self):
        return [(CASE, self.contestants)]


class MeasuringTest(unittest.TestCase):
    def measure(self, contestants, launches=1, peaks=(), record=None, deadline=float("inf")):
        record = record or Record()
        stable = FakeStable([100.0, 100.0, 100.0, *peaks])
        with contextlib.redirect_stderr(io.StringIO()):
            watch = Watch(stable, record)
            Measuring(FakeSection(contestants), stable, record, watch, launches, deadline).run()
        return stable.asked, record

    def test_contestants_take_turns_and_start_anew_in_every_launch(self):
        asked, _ = self.measure(["A", "B"], launches=2)
        self.assertEqual(asked, ["A", "B", "A ends", "B ends", "B", "A", "B ends", "A ends"])

    def test_variants_run_once_and_the_fastest_stays(self):
        asked, _ = self.measure(["PyTorch"], launches=2)
        self.assertEqual(asked, ["PyTorch eager", "PyTorch compile", "PyTorch ends", "PyTorch eager", "PyTorch ends"])

    def test_a_turn_beside_something_else_is_taken_again(self):
        asked, record = self.measure(["A"], peaks=[50.0, 99.0])
        self.assertEqual(asked, ["A", "A", "A ends"])
        self.assertEqual(record.series("fake", "A", CASE, [""]), [1.0])

    def test_a_machine_that_stays_busy_is_given_up(self):
        with self.assertRaisesRegex(SystemExit, "let nothing else run"):
            self.measure(["A"], peaks=[50.0] * 5)

    def test_what_was_measured_is_not_measured_again(self):
        record = Record()
        record.add(("fake", 0, "A", "", key(CASE)), answer(7.0))
        asked, _ = self.measure(["A", "B"], record=record)
        self.assertEqual(asked, ["B", "B ends"])
        self.assertEqual(record.series("fake", "A", CASE, [""]), [7.0])

    def test_time_that_is_over_stops_between_turns(self):
        with self.assertRaises(Stopped):
            self.measure(["A"], deadline=0.0)

    def test_a_peer_that_is_gone_leaves_the_others(self):
        VARIANTS["C", "layer"] = ["gone"]
        self.addCleanup(VARIANTS.pop, ("C", "layer"))
        asked, record = self.measure(["A", "C"], launches=2)
        self.assertEqual(asked, ["A", "A ends", "A", "A ends"])
        self.assertEqual(record.series("fake", "C", CASE, ["gone"]), [None, None])


class FakeRagged(Ragged):
    """Without a binary to ask for the lengths: all but one are half as long."""

    def pair(self, shape, cell, mode):
        padded = layer(cell, shape, mode)
        time, batch, _ = shape
        return padded, padded | {"lengths": [time] + [time // 2] * (batch - 1)}


class SectionTest(unittest.TestCase):
    def filled(self, section, contestant, times):
        """A record of one launch in which Carousel took 10 ms and others what `times` says."""
        record = Record()
        for case, contestants in section.rounds():
            for one in contestants:
                spent = 10.0 if one.startswith("Carousel") else times
                for variant in ["", "eager", "compile", "module", "cells", "cells compiled", "session", "binding"]:
                    entry = answer(spent, outside_share=0.2, peak_memory_bytes=2**21, base_memory_bytes=2**20)
                    record.add((section.name, 0, one, variant, key(case)), entry)
        return record

    def test_layers_tell_targets_that_are_met_from_those_that_are_not(self):
        section = Layers(None, None)
        lines = section.lines(self.filled(section, "PyTorch", 20.0))
        rows = [line for line in lines if line.startswith("| 64,32,256 | gru | train")]
        self.assertIn("| 10.0 | 20.0 | 2.00 | ≥ 2.1 | **not met** | 50 % | 25 % |", rows[0])
        self.assertIn("| 10.0 | 20.0 | 2.00 | ≥ 1.4 | met |", next(line for line in lines if "64,32,256 | lstm | train" in line))
        self.assertEqual(sum(" met |" in line or "not met" in line for line in lines), 24)

    def test_ragged_batches_are_held_to_their_share(self):
        section = FakeRagged(None, None)
        lines = section.lines(self.filled(section, "PyTorch", 30.0))
        row = next(line for line in lines if line.startswith("| 500,32,64 | lstm | train"))
        # 500 + 31 · 250 of 16,000 frames; packed took as long as padded.
        self.assertIn("| 52 % | 1.00 | ≤ 0.58 | **not met** |", row)
        self.assertIn("| 3.00 | ≥ 2.2 | met |", row)

    def test_a_step_is_held_against_every_peer(self):
        section = Step(None, None)
        record = Record()
        for contestant, variant, spent in [("Carousel", "", 0.1), ("PyTorch", "module", 1.6), ("onnxruntime", "session", 0.09), ("onnxruntime", "binding", 0.08)]:
            record.add((section.name, 0, contestant, variant, key(step("lstm", 512))), answer(spent))
        row = next(line for line in section.lines(record) if line.startswith("| lstm | 2x512"))
        self.assertIn("1.60; 16.0; ≥ 15: met", row)
        self.assertIn("0.080; 0.8; ≥ 1: **not met**", row)

    def test_models_give_tokens_a_second(self):
        section = Model(None, None)
        lines = section.lines(self.filled(section, "PyTorch", 20.0))
        row = next(line for line in lines if line.startswith("| characters"))
        self.assertIn("| 409,600 | 204,800 | 2.00 | ≥ 1.75 | met |", row)
        self.assertIn("| 20 % | **not met** |", row)

    def test_translators_are_held_to_a_target_a_mode(self):
        section = Translate(None, None)
        lines = section.lines(self.filled(section, "PyTorch", 20.0))
        rows = [line for line in lines if line.startswith("| words")]
        self.assertIn("| training step | 10.0 | 20.0 | 2.00 | ≥ 1.4 | met |", rows[0])
        self.assertIn("| beam of 5 | 10.0 | 20.0 | 2.00 | ≥ 3 | **not met** |", rows[1])

    def test_memory_is_compared_with_and_without_the_library(self):
        section = Memory(None, None)
        row = next(line for line in section.lines(self.filled(section, "PyTorch", 1.0)) if "2x650" in line)
        self.assertIn("| 2 | 2 | 1 | met | **not met** |", row)

    def test_every_section_writes_a_table_even_of_nothing(self):
        for name, kind in ALL.items():
            section = (FakeRagged if kind is Ragged else kind)(None, None)
            self.assertTrue(any(line.startswith("|---") for line in section.lines(Record())), name)


class ResultsTest(unittest.TestCase):
    def test_a_section_is_replaced_and_the_rest_left_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "RESULTS.md"
            results.write_section("one", "first", path)
            results.write_section("two", r"with \1 in it", path)
            results.write_section("one", "third", path, "another machine")
            results.write_section("one", "second", path)
            text = path.read_text()
        self.assertNotIn("first", text)
        self.assertLess(text.index("second"), text.index(r"with \1 in it"))
        order = ["second", "<!-- begin one, another machine -->\nthird, another machine", r"with \1 in it"]
        self.assertEqual(sorted(order, key=text.index), order)


if __name__ == "__main__":
    unittest.main()

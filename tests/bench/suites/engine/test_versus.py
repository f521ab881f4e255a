"""The comparison with other engines: its arithmetic, and its workers' protocol on a small real process."""

import sys

import pytest

from deepwell.cli.bench.engine import Run
from deepwell_bench.harness.comparison import Comparison, compare
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.worker import Worker, WorkerEngine
from deepwell_bench.suites.engine.versus import fastest, ratios, rounds_within
from deepwell_bench.workers import loop

ENGINE = f"""
import os, sys
sys.path.insert(0, {loop.__file__.removesuffix("loop.py")!r})
from loop import answer_stream, serve

class Engine:
    def prefill(self, prompt):
        print("chatter that must not reach the answers")
        return {{"seconds": 0.5, "work_tokens": len(prompt), "tokens": [[prompt[-1] + 1]]}}

    def generate(self, prompts, count):
        if count > 10:
            raise ValueError("context of 10 tokens")
        if count == 10:
            os.write(2, b"out of memory")
            os._exit(9)
        return {{"seconds": 1.0, "work_tokens": count, "tokens": [[0] * count for _ in prompts]}}

    def sleep(self):
        sys.stdin.read()

serve(Engine(), answer_stream())
"""


@pytest.fixture
def worker(tmp_path):
    worker = Worker("toy", [sys.executable, "-c", ENGINE], {}, tmp_path / "toy.log")
    yield worker
    worker.close()


def test_a_worker_answers_with_runs(worker):
    side = WorkerEngine("toy (fp32)", worker, 8)

    assert side.prefill([5, 6]) == Run(0.5, 2, ((7,),))
    assert side.generate([[1], [2]], 3).outputs == ((0, 0, 0), (0, 0, 0))
    assert side.peak_rss_bytes() > 1e6


def test_what_an_engine_refuses_names_the_engine_and_the_worker_lives_on(worker):
    side = WorkerEngine("toy (fp32)", worker, 8)

    with pytest.raises(PeerError, match="toy generate: ValueError: context of 10 tokens"):
        side.generate([[1]], 11)
    with pytest.raises(PeerError, match="does not offer score"):
        side.score([[1, 2]])
    assert side.prefill([1]).work_tokens == 1


def test_a_worker_that_dies_leaves_its_last_words(worker):
    with pytest.raises(PeerError, match=r"status 9\nout of memory"):
        worker.call("generate", prompts=[[1]], count=10)
    with pytest.raises(PeerError, match="status 9"):
        worker.call("prefill", prompt=[1])


def test_a_worker_that_hangs_is_ended(worker):
    with pytest.raises(PeerError, match=r"took more than 0\.1 seconds"):
        worker.call("sleep", patience=0.1)


def test_decode_is_timed_while_all_streams_run():
    span = loop.decode_span([[1.0, 2.0, 3.0, 4.0], [2.5, 3.5, 4.5]])

    assert span == {"seconds": 1.5, "work_tokens": 3}  # 3.0, 3.5 and 4.0 lie after 2.5 and not after 4.0


def test_each_task_takes_the_fastest_variant_that_serves_it():
    rates = {
        "fp32": {"decode": 5.0, "prefill": 200.0},
        "bf16": {"decode": 9.0, "prefill": 90.0, "batch16": 40.0},
    }

    assert fastest(rates) == {"decode": "bf16", "prefill": "fp32", "batch16": "bf16"}


def test_ratios_are_of_the_rounds():
    result = Comparison({"int8": (10.0, 40.0), "int4": (30.0, 60.0), "peer": (10.0, 20.0)})

    assert ratios(result, ["int8", "int4"], "peer") == {"int8": 1.5, "int4": 3.0}


@pytest.mark.parametrize(("warm_up", "rounds"), [(1.0, 5), (25.0, 4), (300.0, 1), (0.0, 5)])
def test_rounds_fit_into_the_time(warm_up, rounds):
    assert rounds_within(100.0, most=5)(warm_up) == rounds


def test_the_number_of_rounds_may_follow_from_the_warm_up():
    asked: list[float] = []

    def rounds(seconds):
        asked.append(seconds)
        return 2

    result = compare({"a": lambda _: Run(1.0, 10, ())}, rounds)

    assert (len(asked), result.rates["a"]) == (1, (10.0, 10.0))

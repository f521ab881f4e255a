"""Runs of DPO and KTO on a tiny model: what they learn, and that stopping and other pieces change nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest
from deepwell.llm import LLM
from deepwell.tuning.align.config import DpoConfig, KtoConfig
from deepwell.tuning.align.dataset import JudgedExample, PairExample, load_judged, load_pairs, mismatched
from deepwell.tuning.align.preferences import Judged, Pair, write_judged, write_pairs
from deepwell.tuning.align.run import run_dpo, run_kto
from deepwell.tuning.align.worker import command
from deepwell.tuning.train.config import parse_config_as, write_config
from deepwell.tuning.train.run import Stopped

pytestmark = pytest.mark.parity

Events = list[dict[str, Any]]


def asked(number: int) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": f"{'hello ' * (number % 4)}{number}?"},)


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [Pair(asked(n), said(f"hello {n}"), said(f"{n} {n} world")) for n in range(24)])
    return path


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    path = tmp_path / "judged.jsonl"
    write_judged(
        path,
        [Judged(asked(n), said(f"hello {n}" if n % 3 else f"{n} {n} world"), bool(n % 3)) for n in range(36)],
    )
    return path


def config(kind: Any, tiny: Path, data: Path, **values: Any) -> Any:
    settings = {"steps": 12, "batch_tokens": 256, "learning_rate": 1e-2, "precision": "fp32", "threads": 1}
    train = settings | values.pop("train", {})
    plain = {"model": str(tiny), "data": str(data), "validation": 0.25, "lora": {"r": 4, "alpha": 8}}
    return parse_config_as(kind, {**plain, **values, "train": train})


def run(config: Any, folder: Path, stop: Callable[[], bool] = lambda: False) -> tuple[Path, Events]:
    events: Events = []
    start = run_dpo if isinstance(config, DpoConfig) else run_kto
    return start(config, folder, on_event=events.append, stop=stop), events


def weights(adapter: Path) -> dict[str, np.ndarray]:
    return load_file(adapter / "adapter_model.safetensors")


def of(events: Events, kind: str) -> Events:
    return [one for one in events if one["event"] == kind]


def test_dpo_learns_which_of_two_answers_is_preferred(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    adapter, events = run(config(DpoConfig, tiny, pairs, train={"steps": 20}), tmp_path / "run")
    before, *_, after = of(events, "validation")
    assert before["loss"] == pytest.approx(np.log(2), abs=1e-5)  # the model is its own reference
    assert before["margin"] == pytest.approx(0, abs=1e-5)
    assert after["loss"] < 0.3 and after["accuracy"] == 1 and after["margin"] > 1
    record = json.loads((adapter / "deepwell.json").read_text())
    assert (record["algorithm"], record["method"], record["config"]["dpo"]["beta"]) == ("dpo", "lora", 0.1)
    assert record["metrics"]["held_out_loss"] < record["metrics"]["held_out_loss_before"]
    assert record["base_hash"] and record["template_hash"] and record["data"]["report"]["kept"] == 24


def test_kto_learns_what_is_good_from_single_answers(tiny: Path, judged: Path, tmp_path: Path) -> None:
    adapter, events = run(
        config(KtoConfig, tiny, judged, kto={"beta": 0.3}, train={"steps": 24}), tmp_path / "run"
    )
    before, *_, after = of(events, "validation")
    assert before["shift"] == pytest.approx(0, abs=1e-5)
    assert after["loss"] < 0.6 * before["loss"] and after["accuracy"] > 0.9
    assert json.loads((adapter / "deepwell.json").read_text())["algorithm"] == "kto"


@pytest.mark.parametrize("greeting", [True, False])
def test_of_two_opinions_the_one_that_weighs_more_is_learnt(
    greeting: bool, tiny: Path, tmp_path: Path
) -> None:
    answers = [said(f"hello {n}" if n % 2 else f"{n} {n} world") for n in range(24)]
    loud = [Judged(asked(n), one, bool(n % 2) is greeting, weight=9.0) for n, one in enumerate(answers)]
    quiet = [Judged(asked(n), one, bool(n % 2) is not greeting) for n, one in enumerate(answers)]
    data, held_out = tmp_path / "judged.jsonl", tmp_path / "held.jsonl"
    write_judged(data, [*loud, *quiet])
    write_judged(held_out, loud)
    given = config(KtoConfig, tiny, data, validation=[str(held_out)], kto={"beta": 0.3}, train={"steps": 24})
    _, events = run(given, tmp_path / "run")
    assert of(events, "validation")[-1]["accuracy"] > 0.9


@pytest.mark.parametrize("kind", [DpoConfig, KtoConfig])
def test_results_do_not_depend_on_the_pieces_of_a_step(
    kind: Any, tiny: Path, pairs: Path, judged: Path, tmp_path: Path
) -> None:
    data = pairs if kind is DpoConfig else judged
    found = [
        weights(
            run(
                config(kind, tiny, data, validation=0, train={"steps": 2, "batch_tokens": 4096, **pieces}),
                tmp_path / str(number),
            )[0]
        )
        for number, pieces in enumerate(
            [{"micro_tokens": 4096}, {"micro_tokens": 1}, {"micro_tokens": 200, "packing": False}]
        )
    ]
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_allclose(other[name], values, atol=5e-5, err_msg=name)
    assert max(np.abs(values).max() for name, values in found[0].items() if "lora_B" in name) > 5e-3


@pytest.mark.parametrize("kind", [DpoConfig, KtoConfig])
def test_a_stopped_run_continues_bit_for_bit(
    kind: Any, tiny: Path, pairs: Path, judged: Path, tmp_path: Path
) -> None:
    data = pairs if kind is DpoConfig else judged
    wanted = config(
        kind,
        tiny,
        data,
        lora={"r": 4, "alpha": 8, "dropout": 0.2},
        train={"steps": 6, "batch_tokens": 200, "micro_tokens": 128},
    )
    whole, events = run(wanted, tmp_path / "whole")
    folder = tmp_path / "cut"
    references = len(of(events, "reference"))
    with pytest.raises(Stopped):  # while the reference is computed
        run(wanted, folder, lambda: True)
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls == references + 3

    with pytest.raises(Stopped):
        run(wanted, folder, stop)
    resumed, _ = run(wanted, folder)
    for name, values in weights(whole).items():
        np.testing.assert_array_equal(weights(resumed)[name], values, err_msg=name)


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    path = tmp_path / "replay.jsonl"
    talk = [{"messages": [*asked(100 + n), said(f"world {n} hello {n}")]} for n in range(8)]
    texts = [{"text": f"{n} hello world {n} {n}"} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, [*talk, *texts])))
    return path


def test_replayed_conversations_hold_the_model_where_it_was(
    tiny: Path, judged: Path, replayed: Path, tmp_path: Path
) -> None:
    moved: list[float] = []
    for number, weight in enumerate((0.0, 30.0)):
        wanted = config(
            KtoConfig,
            tiny,
            judged,
            replay=[str(replayed)],
            kto={"beta": 0.3, "replay_weight": weight},
            train={"steps": 24},
        )
        adapter, events = run(wanted, tmp_path / str(number))
        first, *_, last = of(events, "step")
        assert first["replay"] == pytest.approx(0, abs=1e-6)
        moved.append(last["replay"])
        validation = of(events, "validation")[-1]
        assert validation["accuracy"] > 0.8 and validation["replay"] == 0  # votes alone are held out
    assert moved[1] < 0.3 * moved[0]
    record = json.loads((adapter / "deepwell.json").read_text())
    assert record["data"]["report"]["kept"] == 36 + 12
    assert any("replay.jsonl" in name for name in record["data"]["sha256"])


def test_good_answers_are_imitated_as_well_if_wanted(tiny: Path, tmp_path: Path) -> None:
    good = [Judged(asked(n), said(f"hello {n} world 7 7 {n}"), desirable=True) for n in range(24)]
    data = tmp_path / "judged.jsonl"
    write_judged(data, [*good, *(Judged(asked(n), said(f"{n} {n}"), desirable=False) for n in range(24))])
    adapters: dict[str, str | Path] = {}
    for weight in (0.0, 3.0):
        given = config(
            KtoConfig,
            tiny,
            data,
            validation=0,
            kto={"beta": 5.0, "nll_weight": weight},
            train={"steps": 40},
        )
        adapters[f"by-{weight:g}"], _ = run(given, tmp_path / f"{weight:g}")
    with LLM(str(tiny), adapters=adapters) as llm:
        pairs = [
            (llm.tokenize(list(one.prompt)), llm.unframed(llm.encode(one.answer["content"]))) for one in good
        ]
        likelihoods = [
            float(np.mean([np.mean(one.logprobs) for one in llm.score(pairs, adapter=name)]))
            for name in adapters
        ]
    assert likelihoods[1] > likelihoods[0] + 0.3  # a preference is satisfied long before an answer is likely


def test_replay_changes_nothing_about_pieces_and_continuing(
    tiny: Path, judged: Path, replayed: Path, tmp_path: Path
) -> None:
    def wanted(**train: Any) -> Any:
        return config(
            KtoConfig,
            tiny,
            judged,
            validation=0,
            replay=[str(replayed)],
            train={"steps": 4, "batch_tokens": 200, **train},
        )

    whole, narrow = (weights(run(wanted(micro_tokens=size), tmp_path / str(size))[0]) for size in (4096, 1))
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls == 4

    with pytest.raises(Stopped):
        run(wanted(micro_tokens=4096), tmp_path / "cut", stop)
    resumed = weights(run(wanted(micro_tokens=4096), tmp_path / "cut")[0])
    for name, values in whole.items():
        np.testing.assert_allclose(narrow[name], values, atol=5e-5, err_msg=name)
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)


def test_a_replayed_file_that_is_missing_is_named(tiny: Path, judged: Path, tmp_path: Path) -> None:
    wanted = config(KtoConfig, tiny, judged, replay=[str(tmp_path / "nowhere")])
    with pytest.raises(InvalidRequest, match="nowhere"):
        load_judged(wanted, Codec.load(tiny), 256)


def test_a_prompt_is_on_one_side_alone_and_earlier_answers_are_not_learnt(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    prompts = [(*asked(n), said("hello"), *asked(n + 1)) for n in range(12)]
    write_pairs(path, [Pair(one, said("hello hello"), said("world")) for one in prompts for _ in range(3)])
    codec = Codec.load(tiny)
    data = load_pairs(config(DpoConfig, tiny, path, validation=0.4), codec, 256)
    assert len(data.train) + len(data.held_out) == 36
    assert len(data.train) % 3 == 0 and 0 < len(data.held_out) < 36
    for one in data.train:
        assert isinstance(one, PairExample)
        learnt = [
            token
            for token, mask in zip(one.preferred.token_ids, one.preferred.loss_mask, strict=True)
            if mask
        ]
        assert b"".join(map(codec.token_bytes, learnt)).startswith(b"hello hello")


def test_every_line_is_accounted_for(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    same = Pair(asked(1), said("hello"), said("hello"))
    prompt = (*asked(1), said("x"), {"role": "user", "content": "hello " * 400})
    long = Pair(prompt, said("a"), said("b"))
    write_pairs(path, [Pair(asked(n), said("hello"), said("world")) for n in range(3)] + [same, long])
    path.write_text(path.read_text() + "{}\n")
    report = load_pairs(config(DpoConfig, tiny, path, validation=0), Codec.load(tiny), 128).report
    assert (report.read, report.kept) == (6, 3)
    assert set(report.dropped) == {"both answers are the same", "no answer within max_tokens", "unreadable"}


def test_kto_needs_both_kinds_and_another_prompt_for_its_reference_point(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    write_judged(path, [Judged(asked(n), said("hello"), True) for n in range(4)])
    with pytest.raises(InvalidRequest, match="all answers to train on are good ones") as error:
        load_judged(config(KtoConfig, tiny, path, validation=0), Codec.load(tiny), 256)
    assert "tune sft" in (error.value.fix or "")
    write_judged(path, [Judged(asked(n % 5), said(f"hello {n}"), bool(n % 2)) for n in range(20)])
    data = load_judged(config(KtoConfig, tiny, path, validation=0), Codec.load(tiny), 256)
    others = [one.mismatched.token_ids for one in data.train if isinstance(one, JudgedExample)]
    assert len({tuple(one) for one in others}) == 20
    assert not {tuple(one.token_ids) for one in data.train} & {tuple(one) for one in others}


def test_no_answer_meets_its_own_prompt() -> None:
    for sizes in ([1, 1], [3, 3, 3], [5, 1, 1], [2, 7, 1, 4]):
        found = [
            Judged(asked(group), said(f"{group} {number}"), True)
            for group, size in enumerate(sizes)
            for number in range(size)
        ]
        others = mismatched(found)
        assert all(
            other is not None and other["content"].split()[0] != one.answer["content"].split()[0]
            for one, other in zip(found, others, strict=True)
        )
        if max(sizes) * 2 <= sum(sizes):
            assert len({str(other) for other in others}) == sum(sizes)
    assert mismatched([Judged(asked(1), said("x"), True)] * 3) == [None] * 3


def test_the_worker_tells_its_course_and_its_mistakes(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(config(DpoConfig, tiny, pairs, train={"steps": 2}), folder / "config.json")
    done = subprocess.run(command("dpo", str(folder)), capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert {one["event"] for one in events} >= {"plan", "reference", "step", "validation", "done"}
    assert (folder / events[-1]["adapter"] / "adapter_config.json").is_file()
    wrong = subprocess.run(command("kto", str(folder)), capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "'dpo'" in json.loads(wrong.stdout.splitlines()[-1])["message"]

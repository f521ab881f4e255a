"""`deepwell bench` as a user without the benchmarks of the repository has it: seven verbs, at their smallest."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import typer
from tests.needs import NATIVE
from typer.testing import CliRunner

from deepwell.cli import bench, guard

FEW = ("--rounds", "1", "--threads", "1")
SMALLEST = {
    "decode": ((*FEW, "--prompt-tokens", "8", "--tokens", "4"), {"tokens_per_s", "roof", "bytes_per_token"}),
    "prefill": ((*FEW, "--prompt-tokens", "16"), {"tokens_per_s", "roof", "roof_tokens_per_s"}),
    "batch": (
        (*FEW, "--prompt-tokens", "8", "--tokens", "8", "--sequences", "2"),
        {"tokens_per_s", "over_batch_1", "sequences"},
    ),
    "profile": ((*FEW, "--prompt-tokens", "8", "--tokens", "4"), {"phases", "total_ms"}),
    "load": ((*FEW, "--requests", "2", "--clients", "2"), {"tokens_per_s", "first_token_p95_ms"}),
    "quality": (("--tokens", "64", "--window", "32"), {"fp32_perplexity", "int8_kl", "int4_top1_agreement"}),
    "roofline": (("--threads", "1"), {"isa", "threads_1", "least_of_manual"}),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command line without other distributions."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    app = typer.Typer()
    bench.register(app)
    guard.register(app)
    return app


@pytest.mark.native
@pytest.mark.needs(NATIVE)
@pytest.mark.parametrize("verb", SMALLEST)
def test_a_verb_measures_a_model_and_ends_with_its_figures(
    alone: typer.Typer,
    verb: str,
    smollm2_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path_factory.getbasetemp() / "bench-home"))
    options, figures = SMALLEST[verb]
    model = [] if verb == "roofline" else ["--model", str(smollm2_path)]
    done = CliRunner().invoke(alone, ["bench", verb, *options, *model, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["name"] == verb
    assert told["holds"] is None
    assert figures <= set(told["value"])


@pytest.mark.native
@pytest.mark.needs(NATIVE)
def test_quality_predicts_a_text_of_ones_own(
    alone: typer.Typer, smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path))
    text = tmp_path / "text.txt"
    text.write_text("A well is as deep as its rope is long. " * 4, encoding="utf-8")
    given = ["--model", str(smollm2_path), "--text", str(text), "--short", "--window", "16", "--json"]
    done = CliRunner().invoke(alone, ["bench", "quality", *given])
    assert done.exit_code == 0, done.output
    assert 16 < json.loads(done.stdout.splitlines()[-1])["value"]["tokens"] < 80
    other = tmp_path / "no-text.bin"
    other.write_bytes(b"\xff\xfe\x00")
    refused = CliRunner().invoke(alone, ["bench", "quality", *given, "--text", str(other)])
    assert refused.exit_code == 1
    assert "no-text.bin" in json.loads(refused.stdout)["error"]["message"]


def test_a_precision_that_is_none_is_refused(alone: typer.Typer, smollm2_path: Path) -> None:
    given = ["--model", str(smollm2_path), "--precision", "int3"]
    assert CliRunner().invoke(alone, ["bench", "decode", *given]).exit_code == 2


def test_another_distribution_adds_verbs_and_takes_the_place_of_those_of_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Added:
        def load(self) -> dict[str, object]:
            return {"roofline": lambda: typer.echo("theirs"), "more": lambda: typer.echo("more")}

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [Added()] * (group == "deepwell.bench")
    )
    app = typer.Typer()
    bench.register(app)
    run = CliRunner().invoke
    assert [run(app, ["bench", name]).stdout for name in ("roofline", "more")] == ["theirs\n", "more\n"]
    assert set(bench.VERBS) <= {
        one.name for one in app.registered_groups[0].typer_instance.registered_commands
    }


def test_the_guard_trains_only_where_the_benchmarks_are(alone: typer.Typer) -> None:
    (group,) = (one.typer_instance for one in alone.registered_groups if one.name == "guard")
    names = {one.name or one.callback.__name__ for one in group.registered_commands}
    assert names == {"check", "scan", "policy", "eval"}

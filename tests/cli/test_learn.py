"""`deepwell learn`: the steps, their pages in two languages, and what the checks say about what a learner did."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.server.agents.serving import agent_server, call
from tests.server.conftest import Live, start
from tests.server.conftest import codec as codec
from tests.server.fakes import FakeEngine, make_service
from typer.testing import CliRunner, Result

from deepwell.cli import app
from deepwell.cli.learn.checks import measuring, service
from deepwell.cli.learn.checks.answers import structured_output
from deepwell.cli.learn.checks.desk import Desk, Finding
from deepwell.cli.learn.steps import Passed, said, steps
from deepwell.cli.learn.verbs import _checks
from deepwell.dialogue.text import Codec
from deepwell.storage.database import Database
from deepwell_bench.harness.learning.pages import (
    Block,
    Played,
    Player,
    blocks_of,
    commands_of,
    step_pages,
    with_outputs,
)
from deepwell_bench.workers.learn_pages import packed_pages

DOCS = Path(__file__).parents[2] / "docs"
HANZI = re.compile(r"[\u4e00-\u9fff]")
PAIRS = list(zip(step_pages(DOCS, "en"), step_pages(DOCS, "zh"), strict=True))
IDS = [page.stem for page, _ in PAIRS]
FREE = re.compile(
    r"'[^']*'|\"[^\"]*\"|smollm2|qwen2\.5-coder-0\.5b| --set train\.steps=30|\S*[\u4e00-\u9fff]\S*"
)


def run(*words: str, language: str = "C.UTF-8", home: Path | None = None, **environ: str) -> Result:
    env = {"LC_ALL": language, "COLUMNS": "160", **environ}
    return CliRunner().invoke(
        app,
        ["learn", *words],
        env=env | ({"DEEPWELL_HOME": str(home), "DEEPWELL_STATE_DIR": str(home / "state")} if home else {}),
    )


def shape(page: Path) -> list[tuple[str, list[str]]]:
    """The blocks of a page with their commands, without what a language says in its own words."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.kind == "python":
            found.append((block.kind, [block.text.splitlines()[0]]))
            continue
        lines = [FREE.sub("_", command.splitlines()[0]).split() for command in commands_of(block.text)]
        found.append((block.kind, [" ".join(line[:3]) for line in lines]))
    return found


# The pages


def test_there_are_twelve_steps_each_with_a_page_in_both_languages() -> None:
    assert [one.number for one in steps()] == list(range(1, 13)) == sorted(_checks())
    assert [page.name for page, _ in PAIRS] == [Path(one.page("en")).name for one in steps()]
    assert [page.name for _, page in PAIRS] == [Path(one.page("zh")).name for one in steps()]
    assert all(set(one.needs) <= set(range(1, one.number)) for one in steps())


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=IDS)
def test_both_languages_have_the_same_commands_programs_and_checks(english: Path, chinese: Path) -> None:
    ours, theirs = shape(english), shape(chinese)
    number = int(english.name[:2])
    if number == 5:  # the Chinese path meets the second model here
        theirs = [(kind, [one for one in lines if one != "deepwell pull _"]) for kind, lines in theirs]
    assert ours == theirs
    assert ours[-1] == ("console", ["deepwell learn check"])
    for page in (english, chinese):
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert len(re.findall(r"^## ", prose, re.MULTILINE)) == 4
        assert f"$ deepwell learn check {number}\n" in page.read_text(encoding="utf-8")
    assert HANZI.search(chinese.read_text(encoding="utf-8"))
    assert english.name.replace(".md", ".zh-CN.md") in english.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [one for pair in PAIRS for one in pair], ids=lambda page: page.name)
def test_programs_compile_and_commands_exist(page: Path, whole_command: Any) -> None:
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.kind == "python":
            compile(block.text, page.name, "exec")
            continue
        for command in commands_of(block.text):
            for text in re.findall(r"(?:^|&& |; |\| )deepwell ([^|>\n]*)", command.replace("\\\n", " ")):
                words = shlex.split(text.partition(" || ")[0].partition(" && ")[0])
                verb = whole_command
                while words and hasattr(verb, "commands"):
                    if words[0] not in verb.commands and hasattr(verb, "default"):
                        words.insert(0, verb.default)
                    assert words[0] in verb.commands, command
                    verb = verb.commands[words.pop(0)]
                known = {name for one in verb.params for name in (*one.opts, *one.secondary_opts)}
                assert {word for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("page", [DOCS / "learn" / "path.md", DOCS / "learn" / "path.zh-CN.md"])
def test_the_map_names_every_step(page: Path) -> None:
    language = "zh" if "zh-CN" in page.name else "en"
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d-[^)]+)\)", text) == [one.name for one in step_pages(DOCS, language)]
    for one in steps():
        assert f"{one.number}. [{one.called(language)}]" in text


def test_the_packed_pages_are_up_to_date() -> None:
    packed = files("deepwell.cli.learn").joinpath("pages.json").read_text(encoding="utf-8")
    assert packed == packed_pages(DOCS)


# The player


def test_commands_keep_the_lines_that_belong_to_them() -> None:
    block = "$ cat > f <<'END'\n$ not a command\nEND\n$ echo a \\\n    b\na b\n$ true\n"
    assert commands_of(block) == ["cat > f <<'END'\n$ not a command\nEND", "echo a \\\n    b", "true"]


def test_a_page_is_played_and_shows_what_was_printed(tmp_path: Path) -> None:
    page = (
        "# Page\n```console\n$ mkdir -p learn && cd learn\n$ export WORD=hello\n```\n"
        "```python\n# say.py\nimport os\nprint(os.environ['WORD'])\n```\n"
        "```console\n$ python say.py\nold output\n$ pwd\n```\n"
    )
    import os

    player = Player(tmp_path, {**os.environ, "DEEPWELL_PORT": "1"}, Path(sys.executable).parent)
    with player.at_work():
        played = player.play(page)
    shown = with_outputs(page, played)
    assert "$ python say.py\nhello\n$ pwd\n~/deepwell/learn\n```" in shown and "old output" not in shown
    assert blocks_of(shown)[1] == Block("python", *_span(shown, "# say.py"))
    failing = "```console\n$ false\n```\n"
    assert player.play(failing, strict=False)[0][0].code == 1
    with pytest.raises(Exception, match="ends with 1"):
        player.play(failing)


def _span(page: str, text: str) -> tuple[str, int, int]:
    start = page.index(text)
    end = page.index("```", start)
    return page[start:end], start, end


def test_an_output_may_hold_anything() -> None:
    page = "```console\n$ a\n$ b\n```\n"
    shown = with_outputs(page, {0: [Played("a", "\\1 \\g<0>", 0, 0.0), Played("b", "", 0, 0.0)]})
    assert shown == "```console\n$ a\n\\1 \\g<0>\n$ b\n```\n"


# The verbs


@pytest.mark.parametrize(
    ("language", "word"), [("C.UTF-8", "The first answer"), ("zh_CN.UTF-8", "得到第一个回答")]
)
def test_the_list_says_where_the_learner_is(tmp_path: Path, language: str, word: str) -> None:
    first = run(language=language, home=tmp_path)
    assert f"[>]  1  {word}" in first.output
    Passed(tmp_path / "state").add(1, "2026-11-01T00:00:00+00:00")
    second = run("list", language=language, home=tmp_path)
    assert f"[x]  1  {word}" in second.output and "[>]  2" in second.output
    listed = json.loads(run("list", "--json", language=language, home=tmp_path).stdout)
    assert listed["next"] == 2 and listed["steps"][0]["passed"] == "2026-11-01T00:00:00+00:00"


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "learn.json").write_text("[1, 2")
    assert Passed(tmp_path).times() == {}


@pytest.mark.parametrize("number", range(1, 13))
def test_a_step_is_shown_in_the_language_of_the_terminal(number: int) -> None:
    english, chinese = run("show", str(number)), run("show", str(number), language="zh_CN.UTF-8")
    assert english.exit_code == chinese.exit_code == 0
    assert f"# Step {number}:" in english.output and f"# 第 {number} 步：" in chinese.output
    assert f"deepwell learn check {number}" in english.output


def test_an_unknown_step_is_an_error_with_a_fix() -> None:
    done = run("show", "13")
    assert done.exit_code == 1 and "1 to 12" in done.output


def test_every_finding_has_texts_in_both_languages() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).parents[2] / "src/deepwell/cli/learn/checks").glob("*.py")
    )
    import tomllib

    texts = tomllib.loads(files("deepwell.cli.learn").joinpath("steps.toml").read_text(encoding="utf-8"))
    keys = set(re.findall(r'Finding\(\s*"(\w+)"', source)) | {key for key, *_ in measuring._POLICY_TEXTS}
    assert keys == set(texts["findings"])
    for key, one in texts["findings"].items():
        for name in ("good", "bad", "fix"):
            fields = re.findall(r"\{(\w+)\}", one[name])
            assert sorted(fields) == sorted(re.findall(r"\{(\w+)\}", one[f"{name}_zh"])), key
            assert HANZI.search(one[f"{name}_zh"]) and not HANZI.search(one[name]), key


# The checks


@pytest.fixture
def served(codec: Codec, tmp_path: Path) -> Iterator[Live]:
    database = Database.open(tmp_path / "deepwell.db")
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="toy", database=database), engine)
    yield running
    running.stop()
    database.close()


def failures(findings: list[Finding]) -> set[str]:
    return {one.key for one in findings if not one.ok}


def test_the_first_step_says_what_is_missing_without_a_server(tmp_path: Path) -> None:
    done = run("check", "1", "--folder", str(tmp_path), "--url", "http://127.0.0.1:9", home=tmp_path)
    assert done.exit_code == 1
    assert (
        "[ ] no server answers at http://127.0.0.1:9" in done.output
        and "fix: start `deepwell serve`" in done.output
    )
    assert "Step 1 is not passed yet" in done.output and Passed(tmp_path / "state").times() == {}


def test_the_check_looks_at_the_server_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_URL", "http://127.0.0.1:9/v1")
    assert "no server answers at http://127.0.0.1:9\n" in run("check", "1", home=tmp_path).output


def test_the_second_step_runs_the_program_and_counts_its_requests(served: Live, tmp_path: Path) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "chat.py").write_text(
        "from openai import OpenAI\n"
        f"client = OpenAI(base_url='{served.url}/v1', api_key='none')\n"
        "for _ in range(2):\n"
        "    made = client.chat.completions.create(model='toy', messages=[{'role': 'user', 'content': 'x'}], max_tokens=4)\n"
        "    print('answer', made.id)\n"
    )
    done = run("check", "2", "--folder", str(desk), "--url", served.url, "--json", home=tmp_path)
    told = json.loads(done.stdout)
    assert (done.exit_code, told["passed"]) == (0, True), told
    assert 2 in Passed(tmp_path / "state").times()
    (desk / "chat.py").write_text("print('I ask nobody')\nprint('at all')\n")
    told = json.loads(
        run("check", "2", "--folder", str(desk), "--url", served.url, "--json", home=tmp_path).stdout
    )
    assert [one["check"] for one in told["findings"] if not one["ok"]] == ["two_requests"]


GOOD = {
    "type": "object",
    "properties": {
        "product": {"type": "string", "maxLength": 40},
        "order": {"type": "integer"},
        "urgent": {"type": "boolean"},
    },
    "required": ["product", "order", "urgent"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {},
        {**GOOD, "additionalProperties": True},
        {**GOOD, "required": ["order"]},
        {**GOOD, "properties": {**GOOD["properties"], "product": {"type": "string"}}},  # type: ignore[dict-item]
        {**GOOD, "properties": {"order": {"type": "integer"}}},
    ],
)
def test_a_schema_that_is_not_sound_is_named(tmp_path: Path, schema: Any) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (finding,) = structured_output(Desk(tmp_path, "http://127.0.0.1:9", "", "en"))
    assert not finding.ok and "lacks" in said(finding, "en")[0]


def record(text: str, answer: str) -> str:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages})


def test_training_data_that_share_a_text_are_found(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    lines = [
        record(f"Please turn on lamp number {number} of the house.", f"lamp {number} on")
        for number in range(130)
    ]
    (tmp_path / "parts" / "train.jsonl").write_text("\n".join(lines[:118]))
    (tmp_path / "parts" / "validation.jsonl").write_text("\n".join(lines[117:]))
    desk = Desk(tmp_path, "http://127.0.0.1:9", "", "en")
    assert failures(measuring.training_data(desk)) == {"parts_apart"}
    (tmp_path / "parts" / "validation.jsonl").write_text("\n".join(lines[118:]))
    assert failures(measuring.training_data(desk)) == set()
    (tmp_path / "parts" / "train.jsonl").write_text("\n".join(lines[:50]))
    assert "parts_there" in failures(measuring.training_data(desk))


def test_rows_that_were_changed_after_the_measurement_are_found(tmp_path: Path) -> None:
    import hashlib

    rows = tmp_path / "mine.jsonl"
    rows.write_text("{}\n" * 12)
    sha256 = hashlib.sha256(rows.read_bytes()).hexdigest()
    (tmp_path / "mine").mkdir()
    span = {"value": 1.0, "low": 0.8, "high": 1.0}
    task = {"rows": 12, "data_sha256": {str(rows): sha256}}
    (tmp_path / "mine" / "config.json").write_text(
        json.dumps({"tasks": [task], "models": {"a": {}, "b": {}}})
    )
    metrics = {"models": {"a": {"metrics": {"mine": {"acc": span}}}}}
    (tmp_path / "mine" / "metrics.json").write_text(json.dumps(metrics))
    desk = Desk(tmp_path, "http://127.0.0.1:9", "", "en")
    assert failures(measuring.measured_task(desk)) == set()
    rows.write_text("{ }\n" * 12)
    assert failures(measuring.measured_task(desk)) == {"rows_unchanged"}


def test_a_policy_is_judged_by_texts_whose_decision_is_known(served: Live, tmp_path: Path) -> None:
    desk = Desk(tmp_path, served.url, "", "en")
    assert failures(measuring.own_policy(desk)) == {"file_there"}
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nextends: standard\ninput:\n  rules:\n    personal: redact\n"
    )
    assert failures(measuring.own_policy(desk)) == {"policy_redacts_out", "server_guards"}


@pytest.mark.parametrize("page", PAIRS[9], ids=lambda page: page.name)
def test_the_solution_of_step_10_adds_a_second_function(served: Live, tmp_path: Path, page: Path) -> None:
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    program = next(block.text for block in blocks if block.text.startswith("# tools.py\n"))
    (tmp_path / "tools.py").write_text(program.replace("http://127.0.0.1:8000", served.url))
    (solution,) = (
        command
        for block in blocks
        for command in commands_of(block.text)
        if command.startswith("python - <<'END'")
    )
    words = solution.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(["bash", "-c", words], cwd=tmp_path, check=True)
    told = subprocess.run(
        [sys.executable, "-c", "import tools; print([one['function']['name'] for one in tools.TOOLS])"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "['order_status', 'price']\n"


def test_step_10_wants_a_run_of_an_agent_that_called_a_tool(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("print('call order_status {}')\n")
    said = "The sum of both is forty-two."  # checks ask again
    lines = (said, said, call("calculate", expression="20 + 22"), "It is 42.")
    with agent_server(codec, tmp_path, *lines, tools=("calculator",)) as live:
        desk = Desk(tmp_path, live.url, "", "en")
        task = ["agent", "run", "What is 20 + 22?", "--url", live.url]
        assert CliRunner().invoke(app, task).exit_code == 0
        assert "agent_acted" in failures(service.own_tools(desk))  # it answered without a call
        assert CliRunner().invoke(app, task).exit_code == 0
        assert "agent_acted" not in failures(service.own_tools(desk))

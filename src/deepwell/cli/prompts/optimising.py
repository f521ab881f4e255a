"""`deepwell prompts optimise`: searches for a better prompt on rows of a task, and checks it on held-out rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.cli.options import Context, ModelsDir, Precision, Threads
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, resumable, write_json
from deepwell.cli.prompts import options as chosen
from deepwell.cli.prompts.registry import TenantOption, opened_registry, tenant_named

if TYPE_CHECKING:
    from deepwell.dialogue.prompts.content import PromptContent, PromptReport
    from deepwell.tuning.evaluate.subjects import Subject
    from deepwell.tuning.prompts.judge import Judge
    from deepwell.tuning.prompts.rows import Fields, Frozen, Row, Shares
    from deepwell.tuning.prompts.run import Optimised
    from deepwell.tuning.prompts.search import Plan

__all__ = ["optimise"]

_SHOWN: Final = 10  # candidates of the table
_MOST_BYTES: Final = 4 << 20  # of a file of instructions or of a grader


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of the command line, read.

    Attributes:
        id: id of the prompt to begin with.
        held_out: file of held-out rows; None: they are a part of the rows.
    """

    id: str
    content: PromptContent
    metric: str
    calls: int
    max_tokens: int
    plan: Plan
    fields: Fields
    held_out: Path | None


def optimise(
    prompt: chosen.StartPrompt,
    data: chosen.Data,
    metric: chosen.MetricName = "label",
    calls: chosen.Calls = 2000,
    model: chosen.SubjectOption = None,
    save: chosen.Save = None,
    use: chosen.Use = False,
    seed: chosen.Seed = 0,
    candidates: chosen.Candidates = None,
    shares: chosen.SharesText = chosen.SHARES,
    held_out: chosen.HeldOut = None,
    max_examples: chosen.MaxExamples = 16,
    max_tokens: chosen.MaxTokens = 64,
    input_field: chosen.InputField = None,
    answer_field: chosen.AnswerField = None,
    output: chosen.Output = None,
    tenant: TenantOption = "local",
    precision: Precision = None,
    context: Context = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Search for better instructions and examples of a prompt, and store a winner that held-out rows confirm.

    Rows are split by hash into training, development and held-out ones. The search reads the first two parts; at its end, the
    start and the winner are asked the held-out rows once. The winner is stored if the 95 % interval of its gain is above 0.
    """
    with reported_errors(as_json=json):
        from deepwell.settings import Settings
        from deepwell.tuning.evaluate.subjects import open_subjects, parse_subject
        from deepwell.tuning.prompts.rows import JOURNAL, Fields, freeze
        from deepwell.tuning.prompts.search import Plan

        _check_id(save)
        grader = _checked_grader(metric, calls)
        _check_held_out(held_out)
        id, content = _start_of(prompt, tenant)
        plan = Plan(seed=seed, own=_own(candidates), most_examples=max_examples)
        asked = _Asked(
            id, content, metric, calls, max_tokens, plan, Fields(input_field, answer_field), held_out
        )
        folder = output or Path(f"prompt-{id}")
        frozen = freeze(data, folder, _shares(shares, held_out), asked.fields)
        given: dict[str, Any] = {
            "precision": precision,
            "context": context,
            "threads": threads,
            "models_dir": models_dir,
        }
        engine: Any = {name: value for name, value in given.items() if value is not None}
        judge = _judge(asked, frozen, grader)
        model = model or Settings.load().model
        journal = frozen.folder / JOURNAL
        with resumable(journal), open_subjects([parse_subject(model)], engine) as (subject,):
            found = _searched(subject, asked, frozen, judge, shown=not json)
        report = _report(found, asked, model, frozen)
        _write(folder, report, found, asked)
        stored = None
        if save and found.is_better:
            stored = asyncio.run(_stored(found, asked, model, frozen, (save, tenant, use)))
        if json:
            write_json({**report, "saved": stored, "folder": str(folder)})
            return
        _print(report, folder)
        _print_saved(found, stored, save, folder)


def _check_id(id: str | None) -> None:
    """Refuses an id that the registry would refuse after the search."""
    import re

    from deepwell.dialogue.prompts.text import ID_PATTERN
    from deepwell.errors import InvalidRequest

    if id is not None and not re.fullmatch(ID_PATTERN, id):
        raise InvalidRequest(
            f"the id {id[:60]!r} cannot be used",
            fix="use letters, digits, '-', '_' and '.', 63 at most",
            param="save",
        )


def _check_held_out(path: Path | None) -> None:
    """Refuses a file of held-out rows that cannot be opened: it is read only when the search has ended.

    Raises:
        OSError: it is so.
    """
    if path is not None and not path.is_fifo():  # which gives its rows to one reader
        path.open("rb").close()


def _checked_grader(metric: str, calls: int) -> Any:
    """Returns the JSON of a grader's file, or None for the metrics that have none, before rows are split.

    Raises:
        InvalidRequest: there is no such metric, its file cannot be used, or the calls are too few.
    """
    import json

    from deepwell.errors import InvalidRequest
    from deepwell.tuning.evaluate.graders import parse_grader
    from deepwell.tuning.prompts.run import check_calls

    check_calls(calls)
    if metric in ("label", "exact"):
        return None
    if not Path(metric).is_file():
        raise InvalidRequest.of("prompts_metric", name=metric, param="metric")
    try:
        given: Any = json.loads(_text_of(Path(metric)))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{metric} is no JSON: {error}", fix="correct it", param="metric") from None
    parse_grader(given)
    return given


def _start_of(name: str, tenant: str) -> tuple[str, PromptContent]:
    """Returns the id and the content of a pack, of a stored prompt or of a shipped one.

    Raises:
        NotFound: there is none of this name.
    """
    from deepwell.dialogue.prompts.content import decode_content
    from deepwell.dialogue.prompts.pack import read_pack
    from deepwell.dialogue.prompts.shipped import shipped_packs
    from deepwell.errors import NotFound

    if Path(name).is_file():
        pack = read_pack(Path(name))
        return pack.id, pack.content
    try:
        with opened_registry() as registry:
            stored = asyncio.run(registry.prompts.get(tenant_named(tenant), name))
    except NotFound:
        for one in shipped_packs():
            if one.id == name:
                return one.id, one.content
        raise NotFound.of("prompts_start", name=name) from None
    return stored.id, decode_content(stored.body)


def _own(path: Path | None) -> tuple[str, ...]:
    """Returns the instructions of a file.

    Raises:
        InvalidFile: a line of JSON is no text.
    """
    import json
    import re

    from deepwell.errors import InvalidFile

    if path is None:
        return ()
    text = _text_of(path)
    if path.suffix != ".jsonl":
        return tuple(one.strip() for one in re.split(r"(?m)^---[ \t]*$", text) if one.strip())
    found: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            value: Any = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            value = 0
        if isinstance(value, dict):
            value = value.get("instructions", 0)
        if value is not None and not isinstance(value, str):
            raise InvalidFile(
                f"line {number} of {path} is no text",
                fix='write each line as "..." or {"instructions": "..."}',
            )
        found += [value] if value else []
    return tuple(found)


def _text_of(path: Path) -> str:
    import io

    from deepwell.errors import InvalidFile

    with path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)  # a pipe or a device has no size
    if len(raw) > _MOST_BYTES:
        raise InvalidFile(f"{path} has over {_MOST_BYTES >> 20} MB", fix="name a file of texts")
    try:
        return io.StringIO(raw.decode("utf-8"), newline=None).read()
    except UnicodeDecodeError:
        raise InvalidFile(f"{path} is no UTF-8 text", fix="save it as UTF-8") from None


def _shares(text: str, held_out: Path | None) -> Shares:
    """Returns the shares of the parts; with a file of held-out rows theirs goes to the other parts."""
    from deepwell.errors import InvalidRequest
    from deepwell.tuning.data.split import parse_fractions
    from deepwell.tuning.prompts.rows import PARTS, Shares

    try:
        given = parse_fractions(text)
    except InvalidRequest:
        given = {}
    needed = PARTS[:2] if held_out and PARTS[2] not in given else PARTS
    if set(given) != set(needed):
        raise InvalidRequest(
            f"the shares {text[:200]!r} are of other parts, or no shares whose sum is 1",
            fix=f"write {chosen.SHARES}; with --held-out, train and development alone",
            param="shares",
        )
    if not held_out:
        return Shares(given["train"], given["development"], given["held_out"])
    whole = given["train"] + given["development"]
    return Shares(given["train"] / whole, given["development"] / whole, 0.0)


def _judge(asked: _Asked, frozen: Frozen, given: Any) -> Judge:
    """Returns the metric that the command line names.

    Args:
        given: JSON of the grader, for a metric that is one.

    Raises:
        InvalidRequest: rows lack answers.
    """
    from deepwell.tuning.prompts.judge import judge_of

    rows = [*frozen.rows("train"), *frozen.rows("development")]
    return judge_of(asked.metric, given, rows, asked.max_tokens)


def _searched(subject: Subject, asked: _Asked, frozen: Frozen, judge: Judge, *, shown: bool) -> Optimised:
    """Searches, and looks at the held-out rows."""
    from contextlib import ExitStack

    from deepwell.cli.progress import counting
    from deepwell.tuning.prompts.judge import journal_config
    from deepwell.tuning.prompts.rows import JOURNAL, read_rows
    from deepwell.tuning.prompts.run import Data, optimise
    from deepwell.tuning.prompts.trials import Journal

    journal = Journal(frozen.folder / JOURNAL, journal_config(frozen, subject, judge))
    held_out = asked.held_out
    with ExitStack() as stack:
        stack.callback(journal.close)
        bars: dict[str, Callable[[int], None]] = {}

        def counted(name: str, count: int) -> None:
            bars[name](count)

        def rows() -> list[Row]:
            found = frozen.rows("held_out") if held_out is None else read_rows(held_out, asked.fields)
            bars["held-out"] = stack.enter_context(counting("held-out rows", 2 * len(found), shown=shown))
            return found

        with counting("searching", asked.calls, shown=shown) as bar:
            bars["search"] = bar
            return optimise(
                subject.llm,
                asked.content.text,
                judge.metric(subject),
                Data(frozen.rows("train"), frozen.rows("development"), rows),
                calls=asked.calls,
                plan=asked.plan,
                journal=journal,
                counted=counted,
            )


def _report(found: Optimised, asked: _Asked, model: str, frozen: Frozen) -> dict[str, Any]:
    from deepwell.tuning.prompts.verdict import report_of

    return {
        "prompt": asked.id,
        "model": model,
        "metric": asked.metric,
        "seed": asked.plan.seed,
        "rows": {**frozen.counts, "dropped": frozen.dropped},
        "data_sha256": frozen.data_sha256,
        **report_of(found.found, found.spent, found.verdict),
    }


def _content(found: Optimised, asked: _Asked, report: PromptReport | None = None) -> PromptContent:
    return replace(asked.content, text=found.found.winner.candidate.text, report=report)


def _write(folder: Path, report: dict[str, Any], found: Optimised, asked: _Asked) -> None:
    """Writes the report, and the winner as a pack."""
    import json

    from deepwell.dialogue.prompts.pack import PromptPack
    from deepwell.dialogue.prompts.writing import write_pack

    (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
    write_pack(folder / "winner.toml", PromptPack(asked.id, 1, _content(found, asked)))


async def _stored(
    found: Optimised, asked: _Asked, model: str, frozen: Frozen, place: tuple[str, str, bool]
) -> dict[str, Any]:
    """Stores the winner with its report as a version of a prompt, and returns which.

    Args:
        place: id of the prompt, its tenant, and whether the version becomes current.
    """
    from deepwell.dialogue.prompts.content import PromptReport, encode_content
    from deepwell.errors import NotFound

    assert found.verdict is not None
    change, spent = found.verdict.change, found.spent
    report = PromptReport(
        model=model,
        metric=asked.metric,
        rows=change.paired,
        start=round(change.first, 4),
        score=round(change.second, 4),
        low=round(change.low, 4),
        high=round(change.high, 4),
        calls=spent.calls,
        tokens=spent.prompt_tokens + spent.answer_tokens,
        seed=asked.plan.seed,
        data_sha256=frozen.data_sha256,
    )
    id, name, use = place
    tenant, body = tenant_named(name), encode_content(_content(found, asked, report))
    with opened_registry() as registry:
        try:
            await registry.prompts.get(tenant, id)
        except NotFound:
            stored, action = await registry.prompts.create(tenant, id, body), "create"
        else:
            stored, action = await registry.prompts.add(tenant, id, body, current=use), "add"
        await registry.audited(tenant, action, stored)
    return {
        "id": stored.id,
        "version": stored.number,
        "current": stored.is_current,
        "sha256": stored.sha256,
        "tenant": name,
    }


def _print(report: dict[str, Any], folder: Path) -> None:
    def say(text: str) -> None:
        console().print(text, soft_wrap=True)

    counts = report["rows"]
    say(
        f"{counts['train']} training, {counts['development']} development, {counts['held_out']} held-out rows"
    )
    marks = {report["start"]: "start", report["winner"]: "winner"}
    print_table(
        ("prompt", "score %", "rows", "tokens", ""),
        [
            (
                one["name"],
                f"{100 * one['score']:.1f}",
                str(one["rows"]),
                f"{one['tokens']:.0f}",
                marks.get(one["key"], ""),
            )
            for one in report["candidates"][:_SHOWN]
        ],
        folded=("prompt",),
    )
    say(f"search: {_cost(report['search'])}; {len(report['candidates'])} prompts")
    if (held := report["held_out"]) is None:
        say(
            "No prompt was better than the start on the development rows, so the held-out rows were not read."
        )
        say(f"report.json: {folder}")
        return
    say(
        f"held-out: {held['paired']} rows, start {100 * held['first']:.1f} %, winner {100 * held['second']:.1f} %: "
        f"{100 * held['value']:+.1f} points, 95 % interval {100 * held['low']:+.1f} to {100 * held['high']:+.1f} "
        f"({held['verdict']}); {_cost(held['cost'])}"
    )
    if held["seen_before"]:
        say(f"{held['seen_before']} held-out rows were left out: the search had read the same input.")
    if held["refused"][1] > held["refused"][0]:
        say(f"{held['refused'][1]} held-out rows do not fit the context with the winner, and count as wrong.")
    if held["looks"] > 1:
        say(
            f"These held-out rows have judged {held['looks']} winners: the interval holds for the first alone."
        )
    say(f"report.json, winner.toml: {folder}")


def _print_saved(found: Optimised, stored: dict[str, Any] | None, save: str | None, folder: Path) -> None:
    def say(text: str) -> None:
        console().print(text, soft_wrap=True)

    if stored is not None:
        state = (
            "current"
            if stored["current"]
            else f"not current: deepwell prompts use {stored['id']} {stored['version']}"
        )
        say(f"stored as {stored['id']}, version {stored['version']} ({state})")
    elif save and found.verdict is None:
        say(
            "Not stored: the start stays. More --calls search further, and --candidates FILE adds instructions."
        )
    elif save and not found.is_better:
        say("Not stored: the gain is not shown. More rows narrow the interval; more --calls search further.")
    elif found.is_better:
        say(f"Store it with --save ID, or with: deepwell prompts load {folder / 'winner.toml'}")


def _cost(cost: dict[str, int]) -> str:
    tokens = cost["prompt_tokens"] + cost["answer_tokens"]
    again = f" ({cost['remembered']:,} of them from the journal)" if cost["remembered"] else ""
    return f"{cost['calls']:,} calls{again}, {tokens:,} tokens"

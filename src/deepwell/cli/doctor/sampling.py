"""`deepwell doctor sampling`: what is wrong with unstable outputs, and which setting to move."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import ModelOption, ModelsDir, ServerPort, Url
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.errors import InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from deepwell.cli.answers import Answers
    from deepwell.models.text.output_health import Advice, Health
    from deepwell.models.text.output_health import Settings as Drawn
    from deepwell.settings import Settings

__all__ = ["sampling"]

_WORDS = re.compile(r"[\u4e00-\u9fff]|\w+|[^\w\s]")
_MOST_PROMPTS = 20
_ROUNDS = 4
_SEED = 1  # the same draws in every round, so that only the parameters differ


def sampling(
    transcript: Annotated[
        Path | None,
        typer.Argument(
            help="Output to examine: a text file, the JSON of a chat completion, or - for standard input."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt on each line; the model answers them, and again with each change that is advised."
        ),
    ] = None,
    model: ModelOption = None,
    models_dir: ModelsDir = None,
    url: Url = None,
    port: ServerPort = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Temperature that the output was drawn with.")
    ] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Top-p that the output was drawn with.")] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.01, help="Repetition penalty that the output was drawn with.")
    ] = 1.0,
    max_tokens: Annotated[
        int, typer.Option(min=32, help="Tokens of each answer to the prompts, at most.")
    ] = 200,
    json: JsonFlag = False,
) -> None:
    """Measure how repetitive and how uncertain outputs are, and report which sampling parameter to change."""
    with reported_errors(as_json=json):
        from deepwell.models.text.output_health import Settings as Drawn
        from deepwell.settings import Settings

        drawn = Drawn(temperature, top_p, repetition_penalty)
        settings = Settings.load(model=model, models_dir=models_dir, url=url, port=port)
        if (transcript is None) == (prompts is None):
            raise InvalidRequest.of("sampling_what")
        if transcript is not None:
            _examine(transcript, settings, drawn, as_json=json)
        elif prompts is not None:
            _try(_lines_of(prompts), settings, drawn, max_tokens, as_json=json)


def _examine(transcript: Path, settings: Settings, drawn: Drawn, *, as_json: bool) -> None:
    from deepwell.cli.transcripts import read_transcript
    from deepwell.models.text.output_health import advise, measure

    text, logprobs, finish = read_transcript(transcript)
    health = measure(_encoder(settings, settings.model)(text.strip()), logprobs, finish)
    advice = advise(health, drawn)
    if as_json:
        write_json({"measured": health.shown(), "advice": [one.shown() for one in advice]})
        return
    out = console()
    for name, value in health.shown().items():
        out.print(f"{name:<22} {value}", highlight=False)
    out.print()
    _print_advice(advice)


def _print_advice(advice: Sequence[Advice]) -> None:
    out = console()
    for one in advice:
        out.print(f"{one.finding}", style="bold", soft_wrap=True)
        out.print(f"  {one.move}", soft_wrap=True)


def _encoder(settings: Settings, name: str) -> Callable[[str], Sequence[int]]:
    """Returns the model's tokenizer; words and Chinese characters where only a server far away has the model."""
    from deepwell.models.store.store import ModelStore
    from deepwell.models.text.tokenizer import Tokenizer

    try:
        return Tokenizer.load(ModelStore(settings.models_dir).resolve(name).path).encode
    except ModelNotFound:
        words: dict[str, int] = {}
        return lambda text: [words.setdefault(word, len(words)) for word in _WORDS.findall(text)]


def _lines_of(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error.args[-1]
        raise InvalidRequest.of("prompts_unreadable", path=path, reason=reason) from error
    lines = [line for line in lines if line]
    if not 1 <= len(lines) <= _MOST_PROMPTS:
        raise InvalidRequest.of("prompts_count", path=path, count=len(lines), most=_MOST_PROMPTS)
    return lines


@dataclass(frozen=True, slots=True)
class _Round:
    """The answers to all prompts with one setting of the parameters."""

    drawn: Drawn
    healths: Sequence[Health]
    advice: Sequence[Sequence[Advice]]

    @property
    def unstable(self) -> int:
        """Number of answers that a change of a parameter is advised for."""
        return sum(any(one.change for one in each) for each in self.advice)

    def shown(self) -> dict[str, Any]:
        repeated = sum(one.repeated for one in self.healths) / len(self.healths)
        looping = sum(one.loop_tokens >= 24 for one in self.healths)
        return asdict(self.drawn) | {
            "answers": len(self.healths),
            "unstable": self.unstable,
            "repeated": round(repeated, 3),
            "looping": looping,
        }


def _try(prompts: Sequence[str], settings: Settings, drawn: Drawn, max_tokens: int, *, as_json: bool) -> None:
    """Answers the prompts, takes the change that most answers want, and tries again, until none wants one."""
    from deepwell.cli.answers import open_answers

    answers = open_answers(settings)
    try:
        encode = _encoder(settings, answers.model)
        rounds = [_answered(answers, encode, prompts, drawn, max_tokens)]
        while rounds[-1].unstable and len(rounds) < _ROUNDS:
            wanted = Counter(
                tuple(one.change.items()) for each in rounds[-1].advice for one in each if one.change
            )
            changed = replace(rounds[-1].drawn, **dict(wanted.most_common(1)[0][0]))
            if any(one.drawn == changed for one in rounds):
                break
            rounds.append(_answered(answers, encode, prompts, changed, max_tokens))
    finally:
        answers.close()
    best = min(rounds, key=lambda one: one.unstable)
    if as_json:
        write_json({"rounds": [one.shown() for one in rounds], "best": asdict(best.drawn)})
        return
    rows = [[f"{value:g}" for value in one.shown().values()] for one in rounds]
    print_table([name.replace("_", " ") for name in rounds[0].shown()], rows)
    if best is rounds[0] and best.unstable:
        _print_advice([one for each in best.advice for one in each][:3])
        return
    values = ", ".join(f"{name} {value:g}" for name, value in asdict(best.drawn).items())
    kept = "keep" if best is rounds[0] else "use"
    console().print(
        f"{kept} {values}: {best.unstable} of {len(prompts)} answers are unstable", soft_wrap=True
    )


def _answered(
    answers: Answers,
    encode: Callable[[str], Sequence[int]],
    prompts: Sequence[str],
    drawn: Drawn,
    max_tokens: int,
) -> _Round:
    from deepwell.cli.answers import Asked
    from deepwell.models.text.output_health import advise, measure

    healths: list[Health] = []
    for prompt in prompts:
        asked = Asked([{"role": "user", "content": prompt}], max_tokens, seed=_SEED, **asdict(drawn))
        parts = list(answers.stream(asked))
        finish = next((part.report.finish_reason for part in parts if part.report), None)
        text = "".join(part.text for part in parts).strip()
        healths.append(measure(encode(text), None, finish))
    return _Round(drawn, healths, [advise(health, drawn) for health in healths])

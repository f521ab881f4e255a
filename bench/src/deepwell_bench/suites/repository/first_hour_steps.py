"""The steps of the first hour: lines of shell with what they have to print, and the turns of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepwell.messages import Language

__all__ = ["CHAT", "COMMANDS", "KEYED", "SDK", "SHELL_START", "Command", "Turn"]

SHELL_START = ". .venv/bin/activate"  # the activation line of the README


@dataclass(frozen=True)
class Command:
    """A line of shell, its exit code, and what it has to print.

    Attributes:
        speaks: whether its output is in the language of the terminal.
    """

    name: str
    line: str
    says: tuple[str, ...] = ()
    code: int = 0
    not_says: tuple[str, ...] = ()
    speaks: bool = False


@dataclass(frozen=True)
class Turn:
    """Keys that are typed in `deepwell chat`, and a pattern of what is printed then, by language."""

    name: str
    keys: str
    expects: Mapping[Language, str]


def _mistake(name: str, line: str, *says: str, code: int = 1) -> Command:
    return Command(f"mistake: {name}", line, says, code, speaks=True)


_QUESTION = "'What is the capital of France? Answer in one sentence.'"
_ASK = f"deepwell ask --temperature 0 --max-tokens 24 {_QUESTION}"

COMMANDS = (
    Command("the version", "deepwell --version", ("deepwell ",)),
    Command("the help", "deepwell --help", ("serve", "chat", "ask", "pull", "run", "list", "ps")),
    Command("the help of a verb", "deepwell ask --help", ("--url", "--api-key")),
    Command("list", "deepwell list", ("smollm2", "qwen2.5-0.5b", "deepseek-r1-llama-8b"), speaks=True),
    Command("list as JSON", "deepwell models list --json", ('"packed_bytes"',)),
    Command("show", "deepwell show smollm2", ("SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0")),
    Command("ps", "deepwell ps", ("http://127.0.0.1:@PORT@", "smollm2")),
    Command("doctor", "deepwell doctor", ("a running server serves", "smollm2")),
    Command("ask", _ASK, ("Paris",)),
    Command("ask with a pipe", f"echo 'Reply with one word.' | {_ASK}", ("Paris",)),
    Command("ask as JSON", f"{_ASK} --json", ('"where": "http://127.0.0.1:@PORT@"',)),
    Command("ask by URL", f"{_ASK} --url http://127.0.0.1:@PORT@/v1", ("Paris",)),
    Command(
        "run with a question", f"deepwell run smollm2 {_QUESTION} --temperature 0 --max-tokens 24", ("Paris",)
    ),
    Command(
        "the curl line",
        "curl -sf http://127.0.0.1:@PORT@/v1/chat/completions -H 'Content-Type: application/json' -d "
        """'{"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}'""",
        ('"chat.completion"',),
    ),
    Command(
        "completion of the shell",
        "_DEEPWELL_COMPLETE=complete_bash COMP_WORDS='deepwell serve smol' COMP_CWORD=2 deepwell",
        ("smollm2",),
    ),
    Command("pull of a file", "deepwell pull @GGUF@ --name a-copy", ("a-copy",)),
    Command("the copy is listed", "deepwell list", ("a-copy",)),
    Command("rm frees it", "deepwell rm a-copy", ("a-copy", "98 MB"), speaks=True),
    Command("the copy is gone", "deepwell list", ("smollm2",), not_says=("a-copy",)),
    Command("pull of what is here", "deepwell pull smollm2", ("smollm2",)),
    _mistake("a verb", "deepwell lst", "deepwell list", code=2),
    _mistake("an option", "deepwell ask --max-token 5 hi", "--max-tokens", code=2),
    _mistake("a precision", "deepwell serve --precision int5", "int8"),
    _mistake("a model", "deepwell ask --model smolm2 hi", "smollm2"),
    _mistake("a file", "deepwell serve ./nofile.gguf --port @FREE@", "deepwell list"),
    _mistake("a taken port", "deepwell serve", "--port"),
    _mistake("nobody there", "deepwell ask --port @FREE@ hi", "deepwell serve"),
    _mistake("a variable", "DEEPWELL_PRECISON=int4 deepwell doctor", "DEEPWELL_PRECISION"),
    _mistake("a store that is a file", "deepwell list --models-dir Makefile", "Makefile"),
    _mistake("a cache too large", "deepwell serve --port @FREE@ --kv-tokens 1000000000", "--kv-tokens"),
    _mistake(
        "every machine without a key", "deepwell serve --host 0.0.0.0 --port @FREE@", "deepwell keys create"
    ),
)

_CLIENT = "from openai import OpenAI; c = OpenAI(base_url='http://127.0.0.1:@PORT@/v1', api_key='none'); "
_ASKED = "What is the capital of France? Answer in one sentence."
_MESSAGES = f"messages=[{{'role': 'user', 'content': '{_ASKED}'}}], temperature=0, max_tokens=24"


def _python(code: str) -> str:
    return f'python -c "{_CLIENT}{code}"'


SDK = (
    Command("pip install openai", "pip install -q openai"),
    Command(
        "SDK: chat",
        _python(f"print(c.chat.completions.create(model='smollm2', {_MESSAGES}).choices[0].message.content)"),
        ("Paris",),
    ),
    Command(
        "SDK: stream",
        _python(
            f"print(''.join(p.choices[0].delta.content or '' for p in c.chat.completions.create(model='smollm2', "
            f"stream=True, {_MESSAGES})))"
        ),
        ("Paris",),
    ),
    Command("SDK: models", _python("print([m.id for m in c.models.list()])"), ("smollm2",)),
    Command(
        "SDK: responses",
        _python("print(c.responses.create(model='smollm2', input='Hi', max_output_tokens=8).status)"),
        ("complete",),
    ),
)

_WAIT = "for i in $(seq 60); do deepwell ask hi --max-tokens 1 >/dev/null 2>&1 || break; sleep 0.5; done"
KEYED = (
    Command(
        "keys create", "deepwell keys create laptop > @HOME@/key.txt; cat @HOME@/key.txt", ("dw-", "key_")
    ),
    Command("keys list", "deepwell keys list", ("laptop", "key_", "inference")),
    Command(
        "the server asks for the key", f"{_WAIT}; deepwell ask hi", ("DEEPWELL_API_KEY",), 1, speaks=True
    ),
    Command("a wrong key", "deepwell ask hi --api-key wrong", ("deepwell keys create",), 1, speaks=True),
    Command("the right key", f"DEEPWELL_API_KEY=$(head -1 @HOME@/key.txt) {_ASK}", ("Paris",)),
    Command("ps of a server with keys", "deepwell ps", ("DEEPWELL_API_KEY",), speaks=True),
)


def _both(pattern: str) -> dict[Language, str]:
    return {"en": pattern, "zh": pattern}


_PROMPT = r".*\n>"  # the editor takes keys again

CHAT = (
    Turn(
        "it greets",
        "",
        {"en": f"smollm2 from .*/help lists{_PROMPT}", "zh": f"正在使用 smollm2.*查看命令{_PROMPT}"},
    ),
    Turn("a question", "What is the capital of France? Answer in one sentence.\r", _both(f"Paris{_PROMPT}")),
    Turn(
        "/help",
        "/help\r",
        {"en": f"this list.*Ctrl-C stops{_PROMPT}", "zh": f"显示本帮助.*停止回答{_PROMPT}"},
    ),
    Turn(
        "pasted lines are one message",
        "\x1b[200~Say yes.\nSay no.\x1b[201~\r",
        _both(rf"yes\.\n+Say no\.\n+.+{_PROMPT}"),
    ),
    Turn("a block of lines", '"""\rSay yes.\rSay no.\r"""\r', _both(rf'\.\.\. """\n+.+{_PROMPT}')),
    Turn("/retry", "/retry\r", _both(rf"/retry\n+.+{_PROMPT}")),
    Turn(
        "/save",
        "/save @HOME@/talk.json\r",
        {"en": f"messages written to{_PROMPT}", "zh": f"条消息写入{_PROMPT}"},
    ),
    Turn("/clear", "/clear\r", {"en": f"is forgotten{_PROMPT}", "zh": f"对话已清空{_PROMPT}"}),
    Turn(
        "/load", "/load @HOME@/talk.json\r", {"en": f"messages read from{_PROMPT}", "zh": f"条消息{_PROMPT}"}
    ),
    Turn(
        "/system",
        "/system Answer in one word.\r",
        {"en": f"is forgotten{_PROMPT}", "zh": f"对话已清空{_PROMPT}"},
    ),
    Turn("/model", "/model\r", _both(f"smollm2{_PROMPT}")),
    Turn("a command misspelt", "/hlep\r", _both(f"/help{_PROMPT}")),
    Turn("Ctrl-C takes back the line", "nonsense", _both("nonsense")),
    Turn("the prompt comes back", "^C", _both(_PROMPT)),
)

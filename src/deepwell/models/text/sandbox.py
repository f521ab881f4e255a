"""A jinja2 environment for untrusted chat templates that limits their time and memory.

A template is a program that comes with a model file. Jinja's sandbox keeps it away from Python's internals but not
from the processor or the memory, and inside a server neither a signal nor a thread reliably stops a render. The
template is therefore rewritten at compile time. Every loop iteration, call, filter, operator and printed value passes
through a function that draws on a budget of steps, characters and seconds, and raises when it is spent. Two rules keep
each step short. Values never exceed `MAX_VALUE`; this is checked before an operation can make them larger, and in
nested containers too. Only filters and methods on a list of harmless ones may be called.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, cast

from jinja2 import Environment, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from deepwell.errors import InvalidRequest

__all__ = ["ChatEnvironment", "TemplateLimit", "TemplateTimeout", "budget", "weigh"]

MAX_VALUE: Final = 8 << 20  # weight of one value: its characters, plus NODE for every object
MAX_STEPS: Final = 200_000
MAX_SECONDS: Final = 2.0  # processor time of this thread, since wall time would depend on the server's load
MAX_DEPTH: Final = 64  # nesting of containers
MAX_INT_BITS: Final = 4096
MAX_HEAVY: Final = 1 << 20  # characters of a value that is worked on piece by piece in Python
MAX_ITEMS: Final = 1 << 16  # items of a value that is sorted
QUICK: Final = 1 << 14  # values of more characters take long enough to look at the clock
NODE: Final = 16

FILTERS: Final = frozenset(
    "abs attr capitalize count d default dictsort e escape first float indent int items join last length list lower "
    "map max min reject rejectattr replace reverse safe select selectattr sort string title trim unique upper".split()
)
METHODS: Final[Mapping[type, frozenset[str]]] = {
    str: frozenset(
        "capitalize count endswith find index isalnum isalpha isdigit islower isnumeric isspace istitle isupper join "
        "lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split "
        "splitlines startswith strip swapcase title upper".split()
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
# Filters that return before they have looked at an item, and those that do more than look at each.
LAZY: Final = frozenset("map reject rejectattr select selectattr".split())
HEAVY: Final = frozenset("dictsort sort title unique".split())
# CPython searches forwards in linear time. Backward searches and character sets take the product of both lengths.
SEARCHES_BACKWARDS: Final = frozenset("lstrip rfind rindex rpartition rsplit rstrip strip trim".split())
MAX_COMPARISONS: Final = 1 << 28
_FORMAT: Final = re.compile(r"%(?!-?\d{0,2}(\.\d{1,2})?[sdifgrx%])")
_STRFTIME: Final = re.compile(r"([^%]|%-?[A-Za-z%]){0,100}")


class TemplateLimit(Exception):
    """Raised when a template spends its budget, or asks for more than any sound one needs."""


class TemplateTimeout(TemplateLimit):
    """Raised when a template spends its time. So may a sound one, once: a thread is charged for a machine that stands still."""


class _Budget:
    def __init__(self, chars: int, seconds: float) -> None:
        self.steps = MAX_STEPS
        self.chars = chars
        self.seconds = seconds
        self.deadline = time.thread_time() + seconds

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TemplateLimit(f"more than {MAX_STEPS} steps")
        # Reading the clock is a system call. Steps are short, so it is read at every eighth, and beside long values.
        if not self.steps & 7:
            self.look()

    def look(self) -> None:
        """Compares the clock with the deadline."""
        if time.thread_time() > self.deadline:
            raise TemplateTimeout(f"more than {self.seconds:.2g} seconds")

    def take(self, size: int) -> None:
        """Charges for a value of this size that is about to be made, or has just been made."""
        self.step()
        if size > MAX_VALUE:
            raise TemplateLimit(f"a value of more than {MAX_VALUE} characters")
        self.chars -= size
        if self.chars < 0:
            raise TemplateLimit("too many characters in all")
        if size > QUICK:
            self.look()


_current: ContextVar[_Budget] = ContextVar("template_budget")


@contextmanager
def budget(chars: int, seconds: float = MAX_SECONDS) -> Generator[None]:
    """Gives one budget to everything that the environment compiles or renders inside the block."""
    token = _current.set(_Budget(chars, seconds))
    try:
        yield
    finally:
        _current.reset(token)


def weigh(value: object, *, printable: bool = False) -> int:
    """Returns the size of a value and its contents; an object reached twice counts twice.

    Raises:
        TemplateLimit: the value is larger than `MAX_VALUE` or nests deeper than `MAX_DEPTH`.
        SecurityError: `printable` is set and the value holds objects whose text could be of any length.
    """
    if isinstance(value, str) and len(value) <= MAX_VALUE - NODE:
        return NODE + len(value)
    total = 0
    stack: list[tuple[object, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        total += NODE
        if isinstance(item, str):
            # Within a container a string is printed with escapes.
            total += len(repr(item)) if printable and depth and not item.isprintable() else len(item)
        elif isinstance(item, int) and item.bit_length() > MAX_INT_BITS:
            raise TemplateLimit(f"an integer of more than {MAX_INT_BITS} bits")
        elif isinstance(item, dict | list | tuple):
            if depth >= MAX_DEPTH:
                raise TemplateLimit(f"a value nested deeper than {MAX_DEPTH}")
            if isinstance(item, dict):
                stack.extend((key, depth + 1) for key in cast("dict[object, object]", item))
                item = cast("dict[object, object]", item).values()
            total += NODE * len(cast("list[object]", item))
            if total <= MAX_VALUE:
                stack.extend((child, depth + 1) for child in cast("Iterable[object]", item))
        elif printable and not (item is None or isinstance(item, bool | int | float | Undefined)):
            raise SecurityError(f"a {type(item).__name__} cannot be turned into text")
        if total > MAX_VALUE:
            raise TemplateLimit(f"a value of more than {MAX_VALUE} characters")
    return total


def _each(iterable: Iterable[Any]) -> Iterator[Any]:
    step = _current.get().step
    for item in iterable:
        step()
        yield item


@pass_context
def _loop(_: Context, iterable: Any) -> Any:
    # `loop.length` still works on sized collections, and an undefined one raises jinja's own error.
    return iterable if isinstance(iterable, Undefined) else _Counted(iterable)


class _Counted:
    """An iterable that spends one step per item."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return _each(self._iterable)

    def __len__(self) -> int:
        return len(cast("list[Any]", self._iterable))


@pass_context
def _compared(_: Context, value: Any) -> Any:
    _current.get().step()  # `in` looks at every item
    return value


@pass_context
def _printed(_: Context, size: int) -> str:
    _current.get().take(size)
    return ""


@pass_context
def _built(_: Context, value: Any) -> Any:
    _current.get().take(weigh(value))
    return value


@pass_context
def _concat(_: Context, parts: list[Any]) -> str:
    _current.get().take(weigh(parts, printable=True))
    return "".join(map(str, parts))


@pass_context
def _slice(_: Context, value: Any, start: Any, stop: Any, step: Any) -> Any:
    part = value[start:stop:step]
    _current.get().take(weigh(part))
    return part


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    _current.get().take(len(value) if isinstance(value, str) else weigh(value, printable=True))
    return value


_REWRITTEN: Final = {
    "_loop": _loop,
    "_compared": _compared,
    "_printed": _printed,
    "_built": _built,
    "_concat": _concat,
    "_slice": _slice,
}


class _Meter(NodeTransformer):
    """Adds budget calls to the syntax tree wherever compiled code would run without calling the environment."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def _call(self, name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
        call = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
        return cast("nodes.Filter", call.set_environment(self._environment))

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._call("_loop", cast("nodes.Expr", node.iter))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        size = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        if size:
            node.nodes.append(self._call("_printed", nodes.Const(size, lineno=node.lineno)))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._call("_compared", node.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return self._call("_slice", node.node, *(b or nodes.Const(None, lineno=node.lineno) for b in bounds))

    def _container(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load" or all(isinstance(n, nodes.Const) for n in node.items):
            return node
        return self._call("_built", node)

    visit_List = visit_Tuple = visit_Dict = _container


class _GenerationTag(Extension):
    """The tag `{% generation %}`, with which transformers marks assistant text. It renders as its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Returns JSON as transformers' `apply_chat_template` writes it, without HTML escapes."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError(f"tojson(indent={indent})")
    weight = weigh(value, printable=True) + weigh(separators)
    if indent and weight > MAX_HEAVY:  # written item by item, each behind as many spaces as it is deep
        raise TemplateLimit(f"tojson with an indent of a value of more than {MAX_HEAVY} characters")
    charge = _current.get().take
    charge(weight * (1 + (indent or 0)))
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if len(text) > weight:
        charge(len(text) - weight)
    return text


def _raise_exception(message: object) -> None:
    raise InvalidRequest(f"the chat template refuses these messages: {str(message)[:500]}", param="messages")


def _strftime_now(form: str) -> str:
    if not _STRFTIME.fullmatch(form):
        raise SecurityError(f"strftime_now({form[:100]!r})")
    return datetime.now().astimezone().strftime(form)


def _check_text(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Charges for the text that a filter or method is about to make if it can be longer than its input."""
    charge = _current.get().take
    first, second, third = (*args, None, None, None)[:3]
    if function in SEARCHES_BACKWARDS and isinstance(first, str) and isinstance(second, str):
        if len(first) * len(second) > MAX_COMPARISONS:
            raise TemplateLimit(f"{function} of {len(second)} characters in {len(first)}")
    elif function == "replace":
        text, old = str(first), str(second)
        charge(len(text) + len(str(third)) * (text.count(old) if old else len(text) + 1))
    elif function == "join":
        charge(weigh(first) + len(cast("list[Any]", first)) * len(str(second or "")))
    elif function == "indent":
        width = kwargs.get("width", 4) if second is None else second
        size = len(width) if isinstance(width, str) else int(width)
        charge(len(str(first)) + size * (str(first).count("\n") + 1))


def _check_size(function: str, value: str | list[Any]) -> None:
    """Refuses values on which one call of a filter would outlast the time limit."""
    most = MAX_HEAVY if isinstance(value, str) else MAX_ITEMS
    if len(value) > most:
        raise TemplateLimit(f"{function} of {len(value)} characters or items, more than {most}")
    _current.get().look()


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # Some filters take the environment or the context as their first argument.
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        values = args[skip:]
        if values and name == "join":
            values = (list(_each(values[0])), *values[1:])
        elif values and (name in LAZY or isinstance(values[0], Iterator)):
            values = (_each(cast("Iterable[Any]", values[0])), *values[1:])
        if values and name in HEAVY and isinstance(values[0], str | list | tuple | dict):
            _check_size(name, cast("str | list[Any]", values[0]))
        if name in (
            "string",
            "replace",
            "join",
            "e",
            "escape",
            "trim",
            "title",
            "lower",
            "upper",
            "capitalize",
        ):
            for value in values:
                weigh(value, printable=True)
        _check_text(name, values, kwargs)
        result = function(*args[:skip], *values, **kwargs)
        _current.get().take(weigh(result))
        return result

    return call


def _stepped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _current.get().step()
        return function(*args, **kwargs)

    return call


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """A metered jinja environment, set up as transformers does for chat templates. It works only inside `budget`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            finalize=_finalize,
            cache_size=0,
        )
        self.filters = {name: _metered(name, f) for name, f in self.filters.items() if name in FILTERS}
        self.filters |= {"tojson": _tojson, **_REWRITTEN}
        self.tests = {name: _stepped(test) for name, test in self.tests.items()}
        functions: dict[str, Callable[..., Any]] = {
            "range": safe_range,
            "dict": dict,
            "namespace": Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self.globals = functions
        self._functions = tuple(functions.values())

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        return super()._generate(_Meter(self).visit(source), name, filename, defer_init)

    def getitem(self, obj: Any, argument: Any) -> Any:
        _current.get().step()  # `map(attribute="a.a.a...")` takes one step per dot
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        charge = _current.get().take
        charge(weigh(args) + weigh(kwargs))
        if isinstance(__obj, LoopContext):
            args = (_loop(__context, args[0]), *args[1:])
        elif not __self._is_allowed(__obj):
            name = getattr(__obj, "__name__", type(__obj).__name__)
            raise SecurityError(f"chat templates may not call {name!r}")
        else:
            owner = getattr(__obj, "__self__", None)
            if isinstance(owner, str) and __obj.__name__ == "join":
                args = (list(_each(args[0])), *args[1:])
                _check_text("join", (*args, owner), {})
            elif isinstance(owner, str):
                _check_text(__obj.__name__, (owner, *args), {})
        result = super().call(__context, __obj, *args, **kwargs)
        charge(weigh(result))
        return result

    def _is_allowed(self, function: Any) -> bool:
        if isinstance(function, Macro | BlockReference | Undefined) or function in self._functions:
            return True
        owner = getattr(function, "__self__", None)
        if isinstance(owner, LoopContext):
            return True
        return getattr(function, "__name__", "") in METHODS.get(cast("type", type(owner)), ())

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        charge = _current.get().take
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            if bits > MAX_INT_BITS:
                raise TemplateLimit(f"an integer of more than {MAX_INT_BITS} bits")
            charge(NODE)
        elif operator == "*":
            value, times = (left, right) if isinstance(right, int) else (right, left)
            size = len(value) if isinstance(value, str) else weigh(value)
            charge(size * max(1, times) if isinstance(times, int) else NODE)
        elif operator == "%" and isinstance(left, str):
            if _FORMAT.search(left):
                raise SecurityError(f"the format {left[:100]!r}")
            charge(len(left) + 100 * left.count("%") + weigh(right, printable=True))  # widths are two digits
        elif isinstance(left, str | list | tuple):
            charge(weigh(cast("object", left)) + weigh(right))
        else:
            charge(NODE)
        result = super().call_binop(context, operator, left, right)
        if operator == "%" and isinstance(result, str):
            charge(len(result))
        return result

"""`read_yaml`: YAML of strangers, without what makes a small text costly."""

from __future__ import annotations

from typing import Any, Final

import yaml

from deepwell.errors import InvalidFile

__all__ = ["read_yaml"]

_MOST_DEPTH: Final = 64
_MOST_DIGITS: Final = 100
_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OPENS: Final = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSES: Final = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def read_yaml(text: str, name: str) -> Any:
    """Returns the value of a YAML text.

    Args:
        name: of its file, for messages.

    Raises:
        InvalidFile: it is no YAML, or uses what a manifest may not.
    """
    try:
        _check_tokens(text, name)
        return yaml.load(text, _Unique)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidFile.of("rules_not_yaml", path=name, reason=" ".join(str(error).split())[:300]) from None


def _check_tokens(text: str, name: str) -> None:
    """Refuses what makes a small file costly: aliases grow it, each level makes all that follows slower to read.

    Tags are refused as well: no part of a manifest needs one, and a value that does not fit its tag is no error of YAML.

    Raises:
        InvalidFile: the text uses one of these.
    """
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            raise InvalidFile.of("rules_not_yaml", path=name, reason="it uses anchors or aliases")
        if isinstance(token, yaml.TagToken):
            raise InvalidFile.of("rules_not_yaml", path=name, reason="it uses tags")
        depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
        if depth > _MOST_DEPTH:
            raise InvalidFile.of("rules_not_yaml", path=name, reason=f"it has more than {_MOST_DEPTH} levels")


class _Unique(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice and numbers that are long, and leaves dates as texts."""

    def construct_scalar(self, node: Any) -> Any:
        # Sexagesimal and hexadecimal integers take quadratic time, or cannot be shown.
        if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number has more than {_MOST_DIGITS} characters", node.start_mark
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set[Any]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Unique.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

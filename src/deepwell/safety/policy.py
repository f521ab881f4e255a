"""`Policy`: what is done about findings, read from one YAML file.

    version: 1
    extends: standard            # a preset: open, standard, strict, cn-public
    input:                       # what users say
      rules:
        injection: block         # a category, a rule, or the beginning of one; the most specific counts
        personal.email: {action: redact, min_score: 0.6}
      on_failure: block          # where a detector fails, is late or lacks its list
    context: {...}               # what a search or a tool brings; `block` withholds it
    output: {...}                # what the model says
    tenants:
      acme: {input: {rules: {harmful: block}}}

A tenant's rules are taken beside the server's, and the stricter of both decides. They can therefore make nothing laxer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from deepwell.errors import InvalidRequest
from deepwell.messages import Language, nearest
from deepwell.safety.findings import ACTIONS, Action, Finding, Layer
from deepwell.safety.rules import is_rule, nearest_rule

__all__ = [
    "CATEGORIES",
    "DETECTORS",
    "MAX_CHARACTERS",
    "PRESETS",
    "External",
    "LayerPolicy",
    "Policy",
    "Rule",
    "strictest",
]

PRESETS: Final = ("open", "standard", "strict", "cn-public")
DETECTORS: Final = (
    "terms",
    "patterns",
    "personal",
    "secrets",
    "classifier",
    "leak",
    "moderation",
    "grounding",
    "external",
)
MAX_CHARACTERS: Final = 500_000
"""Most characters of one request that are read, unless a policy says otherwise: more than a context of 128,000 tokens holds
of ordinary text, and at most about a second of one processor."""

CATEGORIES: Final = (
    "injection",
    "jailbreak",
    "harmful",
    "personal",
    "secret",
    "leak",
    "script",
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
    "politics",
    "pornography",
    "advertisement",
    "profanity",
    "ungrounded",
)
_MOST_BYTES: Final = 1 << 20
_HERE: Final = Path(__file__).parent / "presets"
_ANY: Final = "*"


def strictest(*actions: Action) -> Action:
    """Returns the strictest of some actions; "allow" if there are none."""
    return ACTIONS[max(map(ACTIONS.index, actions), default=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Part):
    """The action on findings whose score reaches `min_score`."""

    action: Action
    min_score: float = Field(0.0, ge=0, le=1)


def _rule(value: Any) -> Any:
    return {"action": value} if isinstance(value, str) else value


class LayerPolicy(_Part):
    """The policy of one layer.

    Attributes:
        rules: by category, rule or beginning of a rule; "*" for all others.
        on_failure: whether texts pass where a detector fails, is late or lacks its list.
    """

    rules: dict[str, Annotated[Rule, BeforeValidator(_rule)]] = Field(default_factory=dict)
    on_failure: Action = "block"

    @field_validator("on_failure")
    @classmethod
    def _passes_or_not(cls, action: Action) -> Action:
        if action not in ("allow", "block"):
            raise PydanticCustomError("passes_or_not", "allow or block", {"expected": "allow, block"})
        return action

    @field_validator("rules")
    @classmethod
    def _known(cls, rules: dict[str, Rule]) -> dict[str, Rule]:
        for name in rules:
            if name != _ANY and name not in CATEGORIES and not is_rule(name):
                raise PydanticCustomError("rule_unknown", "no such rule", {"rule": name})
        return rules

    def action(self, finding: Finding) -> Action:
        """Returns what is done about a finding: the rule of its longest dotted name decides, then its category's, then "*"."""
        name = finding.rule
        while name:
            if name in self.rules:
                break
            name = name.rpartition(".")[0]
        rule = self.rules.get(name) or self.rules.get(finding.category) or self.rules.get(_ANY)
        return rule.action if rule is not None and finding.score >= rule.min_score else "allow"


class Audit(_Part):
    """The contents of the audit trail: every decision or those that act, and the text only where `keep_text` says so."""

    decisions: Literal["all", "acted"] = "acted"
    keep_text: bool = False


class External(_Part):
    """An external moderation service. Its key is read from the environment variable `key_env`, never from the file."""

    kind: Literal["openai", "aliyun", "tencent"]
    url: str
    key_env: str = ""
    secret_env: str = ""
    layers: tuple[Layer, ...] = ("input", "output")
    timeout_ms: int = Field(1000, ge=10, le=60_000)
    retries: int = Field(1, ge=0, le=5)
    on_failure: Literal["allow", "block"] = "block"


class Refusal(_Part):
    """The text of a refusal, by language. "{rule}" stands for the name of the rule, for those who may see it."""

    en: str = (
        "I cannot help with that: the request or the answer is against the rules of this service ({rule})."
    )
    zh: str = "抱歉，该请求或回答不符合本服务的使用规范（{rule}），我无法提供帮助。"

    def text(self, language: Language, rule: str) -> str:
        """Returns the refusal in a language, with the name of the rule in its place."""
        return (self.zh if language == "zh" else self.en).replace("{rule}", rule)


class _Tenant(_Part):
    input: LayerPolicy | None = None
    context: LayerPolicy | None = None
    output: LayerPolicy | None = None


class Policy(_Part):
    """A whole policy.

    Attributes:
        version: of the format.
        name: name of the preset or the file.
        reads: roles whose messages are read as input. What a system message says is the application's own unless clients that
            nobody knows may send one.
        terms: lists of terms that are looked for: `starter` ships, others are fetched by `deepwell guard terms pull`.
        external: moderation services outside, by name.
        label: whether generated content is marked as such, visibly and in its metadata.
        producer: code of the service in that metadata.
        max_characters: most characters of one request that are read. A longer one is refused before it is read.
    """

    version: Literal[1]
    name: str = ""
    input: LayerPolicy = Field(default_factory=LayerPolicy)
    context: LayerPolicy = Field(default_factory=LayerPolicy)
    output: LayerPolicy = Field(default_factory=LayerPolicy)
    reads: tuple[Literal["user", "system", "assistant"], ...] = ("user",)
    terms: tuple[str, ...] = ("starter",)
    audit: Audit = Field(default_factory=Audit)
    refusal: Refusal = Field(default_factory=Refusal)
    external: dict[str, External] = Field(default_factory=dict)
    label: bool = False
    producer: str = Field("", max_length=512, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]*$")
    max_characters: int = Field(MAX_CHARACTERS, ge=1000, le=100_000_000)
    tenants: dict[str, _Tenant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _services_known(self) -> Self:
        for layer in (self, *self.tenants.values()):
            for one in (layer.input, layer.context, layer.output):
                for rule in one.rules if one is not None else ():
                    detector, _, rest = rule.partition(".")
                    if detector == "external" and rest and rest.partition(".")[0] not in self.external:
                        raise PydanticCustomError("service_unknown", "no such service", {"rule": rule})
        return self

    @classmethod
    def load(cls, name: str | Path) -> Policy:
        """Returns a preset by its name, or the policy of a YAML file.

        Raises:
            InvalidRequest: there is no such preset or file, or it is not a valid policy. The fix names the place.
        """
        if str(name) in PRESETS:
            return cls._of(_read(_HERE / f"{name}.yaml"), str(name))
        path = Path(name)
        if not path.is_file():
            if right := nearest(str(name), PRESETS):
                raise InvalidRequest.of("policy_near", name=str(name), right=right)
            raise InvalidRequest.of("policy_unknown", name=str(name), presets=", ".join(PRESETS))
        return cls._of(_read(path), path.name)

    @classmethod
    def _of(cls, data: Any, name: str) -> Policy:
        seen = [name]
        if not isinstance(data, dict):
            raise InvalidRequest.of("policy_not_mapping", name=name)
        data = cast("dict[str, Any]", data)
        if data.get("version") != 1:
            raise InvalidRequest.of("policy_version", name=name)
        while (base := data.pop("extends", None)) is not None:
            if base not in PRESETS or base in seen:
                raise InvalidRequest.of(
                    "policy_extends", name=name, base=str(base), presets=", ".join(PRESETS)
                )
            seen.append(base)
            data = _merged(_read(_HERE / f"{base}.yaml"), data)
        try:
            return cls.model_validate({**data, "name": name})
        except ValidationError as error:
            raise _problem(name, error.errors()[0], list(data.get("external", ()))) from None

    @property
    def hash(self) -> str:
        """Sha256 of what the policy says, in hexadecimal."""
        text = json.dumps(self.model_dump(mode="json", exclude={"name"}), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def layers(self, layer: Layer, tenant: str = "") -> list[LayerPolicy]:
        """Returns the server's rules of a layer, and the tenant's if it has some."""
        mine = self.tenants.get(tenant)
        own: LayerPolicy | None = getattr(mine, layer) if mine is not None else None
        return [getattr(self, layer), *([own] if own is not None else [])]

    def acts(self, layer: Layer, tenant: str = "", names: Collection[str] | None = None) -> bool:
        """Tells whether a rule of a layer does anything about what is found. Where none does, texts need not be read.

        Args:
            names: a detector and the categories that it reports; None stands for any.
        """
        return any(
            rule.action != "allow"
            and (names is None or name == _ANY or name in names or name.partition(".")[0] in names)
            for one in self.layers(layer, tenant)
            for name, rule in one.rules.items()
        )

    def action(self, finding: Finding, layer: Layer, tenant: str = "") -> Action:
        """Returns what is done about a finding."""
        actions: list[Action] = [one.action(finding) for one in self.layers(layer, tenant)]
        return strictest(*actions)

    def on_failure(self, layer: Layer, tenant: str = "") -> Action:
        """Returns what is done where a detector fails."""
        actions: list[Action] = [one.on_failure for one in self.layers(layer, tenant)]
        return strictest(*actions)


def _problem(name: str, problem: ErrorDetails, services: Sequence[str]) -> InvalidRequest:
    """Returns what is wrong with a policy, and what may stand there instead."""
    where: dict[str, Any] = {
        "name": name,
        "place": ".".join(str(one) for one in problem["loc"] if one != "name"),
    }
    given = problem.get("ctx", {})
    if problem["type"] == "rule_unknown":
        rule: str = given["rule"]
        if right := nearest_rule(rule) or nearest(rule, [*CATEGORIES, *DETECTORS]):
            return InvalidRequest.of("policy_rule_near", **where, rule=rule, right=right)
        return InvalidRequest.of(
            "policy_rule_unknown",
            **where,
            rule=rule,
            categories=", ".join(CATEGORIES),
            detectors=", ".join(DETECTORS),
        )
    if problem["type"] == "service_unknown":
        listed = ", ".join(services) or "-"
        return InvalidRequest.of("policy_service_unknown", name=name, rule=given["rule"], services=listed)
    if problem["type"] == "extra_forbidden":
        return InvalidRequest.of("policy_key", **where)
    if problem["type"] in ("literal_error", "passes_or_not"):
        choices = str(given["expected"]).replace(" or ", ", ").replace("'", "")
        return InvalidRequest.of("policy_action", **where, value=repr(problem["input"]), choices=choices)
    return InvalidRequest.of("policy_wrong", **where, reason=problem["msg"])


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the values of `own` in the place of its own, mapping by mapping."""
    merged = dict(base)
    for key, value in own.items():
        mine = merged.get(key)
        merged[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return merged


def _read(path: Path) -> Any:
    import yaml

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidRequest(
                f"{path.name} is larger than {_MOST_BYTES >> 20} MB", fix="shorten the policy"
            )
        text = path.read_text("utf-8")
        if "&" in text and any(isinstance(one, yaml.AnchorToken) for one in yaml.scan(text)):
            raise InvalidRequest.of("policy_anchors", name=path.name)  # they may expand without bound
        return yaml.safe_load(text)
    except OSError as error:
        raise InvalidRequest(
            f"{path.name} cannot be read: {error.strerror}", fix="let the server's user read it"
        ) from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a date or a number that is none
        mark = getattr(error, "problem_mark", None)
        raise InvalidRequest.of(
            "policy_not_yaml",
            name=path.name,
            reason=getattr(error, "problem", None) or str(error).splitlines()[0],
            line=mark.line + 1 if mark is not None else 1,
        ) from None

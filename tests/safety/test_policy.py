"""Contracts of the policy file: what decides, what is refused, and that a tenant can only be stricter."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.safety.findings import ACTIONS, Finding, Layer
from deepwell.safety.guard import Guard
from deepwell.safety.normalise import Normalised
from deepwell.safety.policy import CATEGORIES, DETECTORS, PRESETS, LayerPolicy, Policy, strictest

RULES = st.dictionaries(
    st.sampled_from([*CATEGORIES, "*", "terms", "personal.email", "personal.cn_id"]),
    st.one_of(
        st.sampled_from(ACTIONS),
        st.fixed_dictionaries({"action": st.sampled_from(ACTIONS), "min_score": st.floats(0, 1)}),
    ),
)
FINDINGS = st.builds(
    Finding,
    rule=st.sampled_from(["terms.block.politics", "personal.email", "classifier.injection", "patterns.key"]),
    category=st.sampled_from(CATEGORIES),
    start=st.just(0),
    end=st.just(1),
    score=st.floats(0, 1),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, "utf-8")
    return path


def found(rule: str, category: str, score: float = 1.0) -> Finding:
    return Finding(rule, category, 0, 1, score)


SERVICE = "version: 1\nexternal: {aliyun: {kind: openai, url: 'https://example.com/v1'}}\n"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_each_is_at_least_as_strict_as_the_one_before(name: str) -> None:
    policy = Policy.load(name)
    assert policy.name == name and len(policy.hash) == 64
    before = PRESETS.index(name) - 1
    if before < 0:
        return
    laxer = Policy.load(PRESETS[before])
    for layer in ("input", "context", "output"):
        for category in CATEGORIES:
            finding = found(f"classifier.{category}", category)
            both = laxer.action(finding, layer), policy.action(finding, layer)
            assert strictest(*both) == both[1], (layer, category)


@pytest.mark.parametrize("layer", ["input", "context", "output"])
def test_terms_that_ordinary_texts_use_only_flag_in_public(layer: Layer) -> None:
    policy = Policy.load("cn-public")
    for category in ("politics", "pornography"):
        assert policy.action(found(f"terms.flag.{category}", category), layer) == "flag"
        assert policy.action(found(f"terms.block.{category}", category), layer) == "block"


def test_an_image_in_a_question_is_no_attack_and_one_in_a_passage_is_taken_out() -> None:
    policy, image = Policy.load("standard"), found("patterns.markdown_image", "injection")
    layers: tuple[Layer, ...] = ("input", "context", "output")
    assert [policy.action(image, layer) for layer in layers] == ["flag", "redact", "redact"]


def test_the_longest_name_decides_then_the_category_then_all_others() -> None:
    policy = LayerPolicy.model_validate(
        {"rules": {"*": "flag", "personal": "redact", "personal.email": "allow", "injection": "block"}}
    )
    assert policy.action(found("personal.email", "personal")) == "allow"
    assert policy.action(found("personal.cn_id", "personal")) == "redact"
    assert policy.action(found("classifier.injection", "injection")) == "block"
    assert policy.action(found("patterns.script", "script")) == "flag"


def test_a_rule_may_ask_for_a_score() -> None:
    policy = LayerPolicy.model_validate({"rules": {"harmful": {"action": "block", "min_score": 0.9}}})
    assert policy.action(found("classifier.harmful", "harmful", 0.95)) == "block"
    assert policy.action(found("classifier.harmful", "harmful", 0.5)) == "allow"


def test_a_file_extends_a_preset(tmp_path: Path) -> None:
    policy = Policy.load(
        written(
            tmp_path, "version: 1\nextends: strict\ninput: {rules: {harmful: flag}}\nrefusal: {en: Sorry.}\n"
        )
    )
    strict = Policy.load("strict")
    assert policy.action(found("classifier.harmful", "harmful"), "input") == "flag"
    assert policy.output == strict.output and policy.refusal.en == "Sorry."
    assert policy.hash != strict.hash


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("input: {}", "version"),
        ("version: 2", "version"),
        ("version: 1\nextends: lenient", "open, standard, strict"),
        ("version: 1\ninput: {rules: {injektion: block}}", "did you mean injection"),
        ("version: 1\ninput: {rules: {injection: blok}}", "injection"),
        ("version: 1\ninput: {on_failure: maybe}", "on_failure"),
        ("version: 1\nrulez: {}", "rulez"),
        ("version: [", "not YAML"),
        ("- 1", "empty or a list"),
        ("version: 1\nrefusal: &a {en: *a}", "anchors"),
        ("version: 1\nrefusal: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as failed:
        Policy.load(written(tmp_path, text))
    assert told in f"{failed.value} {failed.value.fix}"


def test_a_missing_file_is_an_error_that_lists_the_presets(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no policy") as failed:
        Policy.load(tmp_path / "none.yaml")
    assert "cn-public" in failed.value.fix


@given(RULES, RULES, FINDINGS)
def test_a_tenant_is_never_laxer_than_the_server(server: dict, tenant: dict, finding: Finding) -> None:
    plain = Policy.model_validate({"version": 1, "input": {"rules": server}})
    policy = Policy.model_validate(
        {"version": 1, "input": {"rules": server}, "tenants": {"acme": {"input": {"rules": tenant}}}}
    )
    without, mine = plain.action(finding, "input"), policy.action(finding, "input", "acme")
    assert strictest(without, mine) == mine
    assert policy.action(finding, "input", "other") == without


def test_a_tenant_that_lets_failures_pass_does_not_weaken_the_server() -> None:
    policy = Policy.model_validate(
        {"version": 1, "input": {"on_failure": "block"}, "tenants": {"a": {"input": {"on_failure": "allow"}}}}
    )
    assert policy.on_failure("input", "a") == "block"


class Fails:
    name = "fails"

    def scan(self, text: Normalised) -> list[Finding]:
        raise RuntimeError("out of order")


class Finds:
    name = "finds"

    def scan(self, text: Normalised) -> list[Finding]:
        return [Finding("classifier.injection", "injection", 2, 5, 0.9)]


@pytest.mark.parametrize("declared", ["allow", "block"])
def test_a_detector_that_fails_or_is_missing_does_what_the_policy_declares(declared: str) -> None:
    policy = Policy.model_validate({"version": 1, "input": {"on_failure": declared}})
    broken = Guard({"input": [Fails()]}, policy).check("text", "input")
    assert broken.action == declared and broken.failed == ("fails",)
    lacking = Guard({"input": []}, policy, {"input": ["terms"]}).check("text", "input")
    assert lacking.action == declared and lacking.failed == ("terms",)
    assert Guard({}, policy).failure("input", "", "timeout").action == declared
    assert Guard({}, policy).check("text", "output").action == "allow"


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        ({}, []),
        ({"terms": "allow"}, []),
        ({"personal.email": "redact"}, ["terms", "patterns", "personal", "secrets"]),
        ({"jailbreak": "flag"}, ["terms", "patterns", "personal", "secrets", "classifier"]),
        ({"*": "flag"}, ["terms", "patterns", "personal", "secrets", "classifier"]),
    ],
)
def test_detectors_are_asked_where_a_rule_may_act(
    rules: dict[str, str], asked: list[str], tmp_path: Path
) -> None:
    guard = Guard.of(Policy.model_validate({"version": 1, "input": {"rules": rules}}), tmp_path)
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for one in guard.detectors["input"]:
            patch.setattr(one, "scan", lambda _, name=one.name: seen.append(name) or [])
        assert guard.check("write to lin@example.com", "input").action == "allow"
    assert seen == asked


def test_what_others_find_still_counts_where_one_fails() -> None:
    policy = Policy.model_validate(
        {"version": 1, "input": {"rules": {"injection": "redact"}, "on_failure": "allow"}}
    )
    decision = Guard({"input": [Fails(), Finds()]}, policy).check("some text", "input")
    assert decision.action == "redact" and decision.failed == ("fails",)
    assert decision.findings[0][0].start == 2 and decision.policy == policy.hash


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("", "empty", "version: 1"),
        ("extends: standard", "version: 1", "version: 1"),
        ("version: 2", "version: 1", "version: 1"),
        ("version: 1\nextends: standart", "standart", "standard"),
        ("version: 1\ninput:\n  rules:\n   - a\n  b: c: d", "not YAML", "line"),
        ("version: 1\ninput: {rules: {injektion: block}}", "injektion", "did you mean injection?"),
        ("version: 1\ninput: {rules: {weapons: block}}", "weapons", "harmful"),
        ("version: 1\ninput: {rules: {injection: deny}}", "deny", "allow, flag, redact, block"),
        ("version: 1\ninput: {on_failure: redact}", "redact", "allow, block"),
        ("version: 1\ninputs: {}", "inputs", "deepwell guard policy standard"),
        ("version: 1\ninput: {rules: {personal.emial: block}}", "emial", "did you mean personal.email?"),
        ("version: 1\noutput: {rules: {personal.foreign.emial: block}}", "emial", "personal.foreign.email?"),
        ("version: 1\ninput: {rules: {patterns.ignore_instruction: flag}}", "rule", "ignore_instructions?"),
        (
            "version: 1\ninput: {rules: {classifer.injection: flag}}",
            "rule",
            "did you mean classifier.injection?",
        ),
        (
            "version: 1\ninput: {rules: {terms.blok.politics: flag}}",
            "rule",
            "did you mean terms.block.politics?",
        ),
        ("version: 1\ninput: {rules: {secrets.aws: flag}}", "secrets.aws", "secrets"),
        (
            "version: 1\ninput: {rules: {moderation.violens: flag}}",
            "rule",
            "did you mean moderation.violence?",
        ),
        ("version: 1\ninput: {rules: {personal.: flag}}", "personal.", "personal"),
        ("version: 1\ntenants: {a: {input: {rules: {personal.emial: block}}}}", "tenants", "personal.email?"),
        (f"{SERVICE}input: {{rules: {{external.aliyum: flag}}}}", "external.aliyum", "aliyun"),
        (f"{SERVICE}tenants: {{a: {{input: {{rules: {{external.b.c: flag}}}}}}}}", "external.b.c", "aliyun"),
        ("version: 1\nmax_characters: 10", "max_characters", "correct"),
        ("version: 1\ninput: {rules: {harmful: {action: block, min_score: 80}}}", "min_score", "correct"),
        ("version: 1\ninput: &a {}", "anchors", "write"),
    ],
)
def test_a_wrong_policy_is_said_with_its_fix_in_both_languages(
    tmp_path: Path, text: str, says: str, fix: str
) -> None:
    with pytest.raises(InvalidRequest) as failed:
        Policy.load(written(tmp_path, text))
    error = failed.value
    assert says in error.message and fix in error.fix
    assert "policy.yaml" in error.message
    assert any("\u4e00" <= character <= "\u9fff" for character in error.said("zh")[0])


@pytest.mark.parametrize(
    "rule",
    [
        *DETECTORS,
        *(
            "personal.email",
            "personal.foreign",
            "personal.foreign.phone",
            "terms.block",
            "terms.flag.own category",
        ),
        *("classifier.harmful", "leak.system_prompt", "moderation.self-harm/intent", "grounding.unsupported"),
        *(
            "patterns.persona",
            "patterns.markdown_image",
            "external.aliyun",
            "external.aliyun.political_content",
        ),
    ],
)
def test_every_rule_that_a_detector_reports_may_be_named(rule: str, tmp_path: Path) -> None:
    policy = Policy.load(written(tmp_path, f"{SERVICE}input: {{rules: {{'{rule}': flag}}}}"))
    assert policy.action(Finding(rule, "other", 0, 1), "input") == "flag"


def test_a_misspelt_preset_is_corrected() -> None:
    with pytest.raises(InvalidRequest) as failed:
        Policy.load("standart")
    assert failed.value.fix == "did you mean standard?"

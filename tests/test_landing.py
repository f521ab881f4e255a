"""The pages for newcomers: figures that were measured, memory that the plan gives, the same content in both languages."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deepwell.engine.plan import plan
from deepwell.models.formats.config_reader import config_from_directory
from deepwell.models.store.catalog import shipped_catalog
from deepwell.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
MISSED = {"en": "(missed)", "zh": "（未达到）"}
TWINS = [
    ROOT / "README.md",
    DOCS / "faq.md",
    DOCS / "learn/getting-started.md",
    DOCS / "learn/first-application.md",
    DOCS / "learn/first-service.md",
]
MOST_LINES = 122  # of a landing page, the tour included


def chinese(page: Path) -> Path:
    return page.with_name(f"{page.stem}.zh-CN.md")


def prose(page: Path) -> str:
    """Returns a page without its blocks of code and output."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def between(text: str, mark: str) -> str:
    return text.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0]


def table(text: str) -> list[list[str]]:
    """Returns the cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def headline(language: str) -> list[tuple[str, str]]:
    """Returns the row's name in targets.toml and the measured cell, of each headline figure."""
    rows = table(between(READMES[language].read_text(encoding="utf-8"), "benchmarks"))
    return [(row[3].removeprefix("`deepwell bench targets ").removesuffix("`"), row[2]) for row in rows]


def measured(row: str) -> dict[str, Any]:
    outcomes = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))[row]
    return outcomes["avx2"]


def numbers(text: str) -> list[float]:
    return [
        float(one.replace(",", "")) for one in re.findall(r"\d[\d,]*(?:\.\d+)?", re.sub(r"p\d+", "", text))
    ]


@pytest.mark.parametrize("language", READMES)
def test_headline_figures_are_those_of_the_benchmarks(language: str) -> None:
    targets = tomllib.loads((ROOT / "bench/src/deepwell_bench/targets.toml").read_text(encoding="utf-8"))[
        "target"
    ]
    known = {target["name"] for target in targets}
    rows = headline(language)
    assert len(rows) == 5
    for name, cell in rows:
        assert name in known
        outcome = measured(name)
        assert (MISSED[language] in cell) is not outcome["holds"]
        values = [value for value in outcome["value"].values() if isinstance(value, int | float)]
        for number in numbers(cell):
            shown = [round(value, 2) for value in values] + [round(value) for value in values]
            assert number in shown or number in [round(100 * value, 1) for value in values], (name, number)


def test_both_languages_show_the_same_figures() -> None:
    english, other = headline("en"), headline("zh")
    assert [(name, numbers(cell)) for name, cell in english] == [
        (name, numbers(cell)) for name, cell in other
    ]


@pytest.mark.parametrize("page", READMES.values(), ids=READMES)
def test_a_landing_page_stays_short_and_keeps_its_tour(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert "\n$ make run" in between(text, "tour")


@pytest.mark.parametrize("page", TWINS, ids=lambda page: page.stem)
def test_both_languages_have_the_same_sections_and_commands(page: Path) -> None:
    def outline(path: Path) -> tuple[list[str], list[str]]:
        heads = re.findall(r"^(#+) ", prose(path), re.MULTILINE)
        return heads, re.findall(r"^( *```\w*)$", path.read_text(encoding="utf-8"), re.MULTILINE)

    assert outline(page) == outline(chinese(page))


def test_the_first_application_is_one_program_in_both_languages() -> None:
    """Only texts and comments differ."""

    def shape(page: Path) -> str:
        code = "".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.search("[^!-~]", node.value)
            ):
                node.value = ""
        return ast.dump(tree)

    page = DOCS / "learn/first-application.md"
    assert shape(page) == shape(chinese(page))


@pytest.mark.parametrize("suffix", [".md", ".zh-CN.md"])
def test_the_settings_of_the_first_service_are_settings(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / f"learn/first-service{suffix}").read_text(encoding="utf-8")
    written = re.search(r"config\.toml <<'END'\n(.*?)^END$", text, re.DOTALL | re.MULTILINE)
    assert written
    file = tmp_path / "config.toml"
    file.write_text(written[1], encoding="utf-8")
    monkeypatch.setenv("DEEPWELL_CONFIG", str(file))
    settings = Settings.load()
    assert (settings.model, settings.embedding_model) == ("qwen2.5-coder-0.5b", "minilm")
    assert (settings.requests_per_minute, settings.tokens_per_minute) == (120, 60_000)


def test_the_word_list_is_followed() -> None:
    """A word of the column "not" is not in the pages for newcomers, unless the list says that it means something else."""
    listed = table((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Words")[1])
    assert len(listed) >= 30
    avoided = {word for row in listed for word in row[3].split("、") if word and "(" not in word} | {"您"}
    for page in map(chinese, TWINS):
        assert sorted(word for word in avoided if word in prose(page)) == [], page.name


# The `config.json` of the models in the table of memory, as their publishers have it: what the plan depends on.
_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6, "rms_norm_eps": 1e-6}
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "rope_theta": 1e6, "rms_norm_eps": 1e-6, "head_dim": 128}
_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)


def _shape(base: dict[str, Any], *values: Any, **more: Any) -> dict[str, Any]:
    return base | dict(zip(_FIELDS, values, strict=True)) | more


_LATENT = _shape(
    {"architectures": ["DeepseekV2ForCausalLM"], "rope_theta": 10_000, "rms_norm_eps": 1e-6},
    *(2048, 10_944, 27, 16, 16, 102_400, 163_840, False),
    kv_lora_rank=512,
    q_lora_rank=None,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
    moe_layer_freq=1,
    topk_method="greedy",
    n_group=1,
    topk_group=1,
    norm_topk_prob=False,
    scoring_func="softmax",
    routed_scaling_factor=1.0,
    hidden_act="silu",
)
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": _shape(
        {"architectures": ["LlamaForCausalLM"], "rope_theta": 1e5, "rms_norm_eps": 1e-5},
        *(576, 1536, 30, 9, 3, 49_152, 8192, True),
    ),
    # Its file carries an output matrix of its own.
    "qwen2.5-coder-0.5b": _shape(_QWEN2, 896, 4864, 24, 14, 2, 151_936, 32_768, False),
    "qwen2.5-1.5b": _shape(_QWEN2, 1536, 8960, 28, 12, 2, 151_936, 32_768, True),
    "qwen3-4b": _shape(_QWEN3, 2560, 9728, 36, 32, 8, 151_936, 40_960, True),
    "qwen3-8b": _shape(_QWEN3, 4096, 12_288, 36, 32, 8, 151_936, 40_960, False),
    "qwen2.5-7b": _shape(_QWEN2, 3584, 18_944, 28, 28, 4, 152_064, 32_768, False),
    "deepseek-r1-llama-8b": _shape(
        {"architectures": ["LlamaForCausalLM"], "rope_theta": 5e5, "rms_norm_eps": 1e-5},
        *(4096, 14_336, 32, 32, 8, 128_256, 131_072, False),
    ),
    "deepseek-v2-lite": _LATENT,
    "qwen3-30b-a3b": _shape(
        {"architectures": ["Qwen3MoeForCausalLM"], "rope_theta": 1e6, "rms_norm_eps": 1e-6, "head_dim": 128},
        *(2048, 6144, 48, 32, 4, 151_936, 40_960, False),
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        hidden_act="silu",
    ),
}


def gigabytes(name: str, precision: Any, folder: Path) -> str:
    """Returns what `deepwell serve NAME --precision PRECISION` plans for."""
    (folder / "config.json").write_text(json.dumps(SHAPES[name]), encoding="utf-8")
    made = plan(config_from_directory(folder), precision, available_bytes=1 << 40)
    return f"{made.total_bytes / 1e9:.1f} GB"


@pytest.mark.parametrize("language", READMES)
def test_the_memory_of_each_model_is_what_the_plan_gives(language: str, tmp_path: Path) -> None:
    text = READMES[language].read_text(encoding="utf-8")
    start = text.rindex("\n", 0, text.index("| int4 | int8 |"))
    rows = table(text[start:].split("\n\n")[0])
    assert {row[0].strip("`") for row in rows} == SHAPES.keys() <= shipped_catalog().keys()
    for name, _, int4, int8 in rows:
        name = name.strip("`")
        assert (int4, int8) == (gigabytes(name, "int4", tmp_path), gigabytes(name, "int8", tmp_path))

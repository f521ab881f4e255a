"""Where settings come from, in rising precedence, and how a wrong one is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.settings import InvalidSettings, Settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DEEPWELL_{name.upper()}", raising=False)
    file = tmp_path / "config.toml"
    file.write_text("")
    monkeypatch.setenv("DEEPWELL_CONFIG", str(file))
    return file


def test_each_source_beats_the_one_before(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().port == 8000
    config.write_text('port = 1001\nmodel = "other"\nthreads = 3\n')
    monkeypatch.setenv("DEEPWELL_PORT", "1002")
    monkeypatch.setenv("DEEPWELL_THREADS", "")  # as good as unset
    settings = Settings.load(context=64, host=None)
    assert (settings.port, settings.model, settings.threads, settings.context) == (1002, "other", 3, 64)
    origins = settings.origins()
    assert origins["host"] == "default"
    assert origins["model"] == origins["threads"] == f"file {config}"
    assert origins["port"] == "environment DEEPWELL_PORT"
    assert origins["context"] == "flag --context"
    assert set(origins) == set(Settings.model_fields)
    assert Settings.load(port=1003).port == 1003


@pytest.mark.parametrize(
    ("content", "says"),
    [("prot = 1", "prot is not a setting"), ("port = 'x'", "port (file"), ("port =", "not valid TOML")],
)
def test_a_wrong_file_is_named(config: Path, content: str, says: str) -> None:
    config.write_text(content)
    with pytest.raises(InvalidSettings) as error:
        Settings.load()
    assert says in error.value.message and str(config) in error.value.message


def test_a_named_file_must_exist(config: Path) -> None:
    config.unlink()
    with pytest.raises(InvalidSettings, match="which is not a file"):
        Settings.load()


def test_keys_are_split_long_and_never_shown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_API_KEYS", "first-key-0123456789, second-key-0123456789")
    settings = Settings.load()
    assert [key.get_secret_value()[:6] for key in settings.api_keys] == ["first-", "second"]
    assert "0123456789" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    monkeypatch.setenv("DEEPWELL_API_KEYS", "short-secret")
    with pytest.raises(InvalidSettings) as error:
        Settings.load()
    assert "at least 16" in error.value.message and "Value error" not in error.value.message
    assert "short-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "exposed"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("127.8.8.8", False),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.1", True),
        ("my-machine", True),
    ],
)
def test_other_machines_need_keys(config: Path, host: str, exposed: bool) -> None:
    settings = Settings.load(host=host)
    assert settings.is_exposed() == exposed
    if exposed:
        with pytest.raises(InvalidSettings, match="no API key"):
            settings.require_safe_address()
    else:
        settings.require_safe_address()
    Settings.load(host=host, api_keys=["k" * 16]).require_safe_address()


def test_a_misspelt_variable_names_the_right_one(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_PRECISON", "int4")
    with pytest.raises(InvalidSettings, match="did you mean DEEPWELL_PRECISION"):
        Settings.load()


@pytest.mark.parametrize(
    "name", ["SERVICE_HOST", "SERVICE_PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR", "BENCH_LLAMA", "HOME"]
)
def test_variables_of_others_are_left_alone(
    config: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"DEEPWELL_{name}", str(tmp_path))
    Settings.load()


def test_a_wrong_choice_lists_the_choices_and_nothing_else(config: Path) -> None:
    with pytest.raises(InvalidSettings) as error:
        Settings.load(precision="int5")
    assert error.value.fix == "use one of auto, int8, int4, int4-full, bf16, fp16, fp32"


def test_several_problems_are_all_named(config: Path) -> None:
    config.write_text("prot = 1\nthreads = 0\n")
    with pytest.raises(InvalidSettings) as error:
        Settings.load(port=70000)
    assert all(word in str(error.value) for word in ("prot", "did you mean port?", "threads", "65535"))


@pytest.mark.parametrize(
    ("setting", "value", "flag"),
    [("model_keep_alive_s", -2, "--keep-alive"), ("allowed_hosts", 3, "--allowed-host")],
)
def test_a_refused_flag_is_named_as_it_was_typed(
    config: Path, setting: str, value: object, flag: str
) -> None:
    with pytest.raises(InvalidSettings, match=rf"flag {flag}\)"):
        Settings.load(**{setting: value})


def test_no_section_hides_a_validator_of_another_one() -> None:
    sections = [one for one in Settings.__mro__ if one.__module__.startswith("deepwell.settings.")]
    own = [
        name
        for one in sections
        for name in getattr(one, "__pydantic_decorators__").field_validators  # noqa: B009
        if name in vars(one)
    ]
    assert len(own) > 5 and len(own) == len({*own})

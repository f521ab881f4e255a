"""Benchmarks that are suites of the repository: parity, faults, any of its tests, and a newcomer's first minutes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import DeepwellError
from deepwell.models.store.languages import is_chinese
from deepwell_bench.harness.assets import bench_cache, repository
from deepwell_bench.harness.junit import run_junit, run_pytest
from deepwell_bench.harness.ports import free_port

__all__ = [
    "bench_chinese",
    "bench_ci",
    "bench_faults",
    "bench_newcomer",
    "bench_parity",
    "bench_tests",
    "clean_environment",
]

ANSWER_LINE = (
    "The next one: in the console"  # what `deepwell serve --demo` prints under its first answer, in English
)

CHINESE_QUESTIONS = (
    "你好，请介绍一下你自己。",
    "为什么天空是蓝色的？",
    "请推荐三道适合夏天吃的家常菜。",
    "用一句话解释什么是人工智能。",
    "我最近总是睡不好，有什么建议吗？",
    "北京有哪些值得去的景点？",
    "请帮我写一封请假邮件，原因是感冒发烧。",
    "什么是递归？请用简单的话解释，不要写代码。",
    "中秋节有哪些传统习俗？",
    "零基础学编程，应该从哪里开始？",
)
_NO_HUB = "http://127.0.0.1:9"  # nobody listens on the discard port

_STAGE = re.compile(r"^ *(\d+) s  (.+)$", re.MULTILINE)  # what `.ci/run` prints of its stages


def bench_ci(report: Report) -> dict[str, Any]:
    """Runs `.ci/run` in a clean clone of HEAD and returns the minutes of its stage "test" and of the whole."""
    with tempfile.TemporaryDirectory(prefix="deepwell-ci-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(repository()), str(clone)], check=True)
        done = subprocess.run(
            [str(clone / ".ci" / "run")],
            cwd=clone,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    log = bench_cache() / "ci.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout, encoding="utf-8")
    stages = {name: int(seconds) for seconds, name in _STAGE.findall(done.stdout)}
    if not {"test", "in all"} <= stages.keys():
        raise DeepwellError(
            f"`.ci/run` ended before its tests were done: {done.stdout.strip()[-800:]}",
            fix=f"read {log}",
        )
    report.note(", ".join(f"{name} {seconds} s" for name, seconds in stages.items()))
    return {
        "passed": done.returncode == 0,
        "test_minutes": rounded(stages["test"] / 60, 3),
        "ci_minutes": rounded(stages["in all"] / 60, 3),
    }


def clean_environment(**more: str) -> dict[str, str]:
    """Returns this process's environment without what would reach into a clone's own programs, and in English."""
    dropped = ("DEEPWELL_", "XDG_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS", "LC_", "LANG")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {"LANG": "C.UTF-8"} | more


def bench_parity(report: Report, *, deepseek: bool = False) -> dict[str, Any]:
    """Runs the parity suite in its own environment, transformers included; or that of DeepSeek and Qwen3-MoE alone."""
    target = "parity-deepseek" if deepseek else "parity"
    done = run_junit(
        lambda option: ["make", target, f"ARGS=-q {option}"],
        fix=f"run `make {target}` and read what it says",
        stderr=None,
    )
    report.note(done.last_lines())
    return dict(done.counts())


def bench_faults(report: Report, *, restarts: int) -> dict[str, Any]:
    """Runs the fault tests: real signals on real servers. `restarts`: how often the engine is killed in the test of leaks."""
    done = run_pytest(["tests/faults"], {"DEEPWELL_FAULTS_RESTARTS": str(restarts)})
    report.note(done.last_lines())
    return done.counts() | {"restarts": restarts}


def bench_tests(report: Report, paths: Sequence[str]) -> dict[str, Any]:
    """Runs tests of the repository, named as for pytest: files, folders or ids."""
    done = run_pytest(paths)
    report.note(done.last_lines())
    return dict(done.counts())


def _until(process: subprocess.Popen[str], found: Callable[[str], bool], seconds: float) -> bool:
    """Reads lines until one is wanted; a timer ends the whole process group where none comes in time."""
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        assert process.stdout is not None
        return any(found(line) for line in process.stdout)
    finally:
        timer.cancel()


def _clone_and_run(report: Report, python: str, patience: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="deepwell-newcomer-") as folder:
        home, clone = Path(folder) / "home", Path(folder) / "clone"
        home.mkdir()
        subprocess.run(["git", "clone", "-q", str(repository()), str(clone)], check=True)
        environment = clean_environment(HOME=str(home), PYTHONUNBUFFERED="1")
        start = time.monotonic()
        process = subprocess.Popen(
            ["make", "run", f"PYTHON={python}"],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        answered = _until(process, lambda line: ANSWER_LINE in line, patience)
        seconds = time.monotonic() - start
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=30)
        tests = subprocess.run(
            ["make", "test", f"PYTHON={python}"],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        last = tests.stdout.strip().splitlines()[-1]
        report.note(f"{python}: answered after {seconds:.0f} s: {answered}; make test: {last}")
        return {
            "answered": answered,
            "seconds": seconds,
            "passed": tests.returncode == 0,
            "tests": last.strip("= "),
        }


def bench_newcomer(report: Report, *, python: str, patience: float = 240.0) -> dict[str, Any]:
    """Clones HEAD and times `make run`, with an empty HOME, to its first answer; tells whether `make test` passes."""
    result = _clone_and_run(report, python, patience)
    return {
        "python": python,
        "answered": result["answered"],
        "answer_seconds": rounded(result["seconds"], 3),
        "tests_passed": result["passed"],
        "tests": result["tests"],
    }


def bench_chinese(report: Report, *, python: str, model: str, patience: float = 600.0) -> dict[str, Any]:
    """Clones HEAD, times `make run MODEL=...` with an empty HOME and no hub, and asks it ten questions in Chinese.

    An answer counts as Chinese if most of its letters are Han characters. Requests leave sampling to the model's defaults.
    """
    with tempfile.TemporaryDirectory(prefix="deepwell-chinese-") as folder:
        home, clone = Path(folder) / "home", Path(folder) / "clone"
        home.mkdir()
        subprocess.run(["git", "clone", "-q", str(repository()), str(clone)], check=True)
        port = free_port()
        hubs = {"HF_ENDPOINT": _NO_HUB, "MODELSCOPE_ENDPOINT": _NO_HUB}
        begin = time.monotonic()
        process = subprocess.Popen(
            ["make", "run", f"MODEL={model}", f"PYTHON={python}"],
            cwd=clone,
            env=clean_environment(HOME=str(home), PYTHONUNBUFFERED="1", DEEPWELL_PORT=str(port), **hubs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            answered = _until(process, lambda line: ANSWER_LINE in line, patience)
            first = time.monotonic() - begin
            answers = _ask_in_chinese(f"http://127.0.0.1:{port}", model) if answered else []
            seconds = time.monotonic() - begin
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(timeout=30)
    for question, answer in zip(CHINESE_QUESTIONS, answers, strict=False):
        report.note(f"{'+' if is_chinese(answer) else '-'} {question}  {answer[:60]!r}")
    return {
        "python": python,
        "model": model,
        "answered": answered,
        "answer_seconds": rounded(first, 3),
        "seconds": rounded(seconds, 3),
        "asked": len(CHINESE_QUESTIONS),
        "in_chinese": sum(map(is_chinese, answers)),
    }


def _ask_in_chinese(url: str, model: str) -> list[str]:
    """Returns the answers to `CHINESE_QUESTIONS`. Each has a seed, so that a failure can be seen again."""
    import httpx

    answers: list[str] = []
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for seed, question in enumerate(CHINESE_QUESTIONS):
            messages = [{"role": "user", "content": question}]
            body = {"model": model, "messages": messages, "max_tokens": 160, "seed": seed}
            response = client.post("/v1/chat/completions", json=body).raise_for_status()
            answers.append(response.json()["choices"][0]["message"]["content"])
    return answers

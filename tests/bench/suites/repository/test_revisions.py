"""Comparison with an earlier commit: what counts as the same assertion, document and speed, and which commit is compared."""

import contextlib
import subprocess

import pytest
from rich.console import Console

from deepwell_bench.harness import revisions
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.pairs import PAIRS_A_START, Bar, Estimate, bootstrap_median, run_pairs
from deepwell_bench.suites.repository.api_difference import compare_documents
from deepwell_bench.suites.repository.assertions import compare_scopes, missing_tests, scopes_of
from deepwell_bench.suites.repository.stored import packed_files
from deepwell_bench.suites.repository.unchanged import blob_id


def scopes(source, path="tests/server/test_a.py", renamed=None):
    return scopes_of(source, path, renamed or {})


def differences(before, after):
    return [line for one in compare_scopes(before, after)[0] for line in one.lines()]


def test_a_module_that_moved_is_no_difference_but_another_text_is():
    def found(text):
        return scopes(f"def test_a():\n    assert 1 in pids({text!r})")

    assert compare_scopes(found("server.worker"), found("server.workers.worker"))[0] == []
    assert compare_scopes(found("server.worker"), found("server worker"))[0] != []


def test_assertions_are_read_by_function():
    found = scopes(
        """
assert READY
def helper():
    return 1
class TestThings:
    @pytest.mark.parametrize("given", [1, 2])
    def test_method(self, given):
        with pytest.raises(ValueError, match="no"):
            assert given
        mock.assert_called_once()
        def inner():
            assert deep
async def test_nothing():
    pass
"""
    )

    assert {scope.name: scope.assertions for scope in found} == {
        "<module>": ("assert READY",),
        "TestThings.test_method": (
            "pytest.mark.parametrize('given', [1, 2])",
            "pytest.raises(ValueError, match='no')",
            "assert given",
            "mock.assert_called_once()",
            "assert deep",
        ),
        "test_nothing": (),
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("assert isinstance(x, deepwell.server.text.Codec)", "assert isinstance(x, deepwell.dialogue.Codec)"),
        ("assert 'deepwell.server.text' in x", "assert 'deepwell.dialogue.text' in x"),
        ("assert Old(1).old == f(old=2)", "assert New(1).old == f(old=2)"),
        ("assert x == 'a'", 'assert (x == "a")'),
    ],
)
def test_places_of_modules_and_listed_names_make_no_difference(before, after):
    body = "def test_x():\n    {}\n"
    old, new = (scopes(body.format(text), renamed={"Old": "New"}) for text in (before, after))

    assert differences(old, new) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("assert x == 1", "assert x == 2"),
        ("assert x == 1", "pass"),
        ("pass", "assert x == 1"),
        ("assert x.deepwell.a == 1", "assert x.other.a == 1"),
        ("assert name == 'deepwell.db'", "assert name == 'deepwell.sqlite'"),
    ],
)
def test_every_other_change_is_listed(before, after):
    body = "def test_x():\n    {}\n"

    assert differences(scopes(body.format(before)), scopes(body.format(after)))[0] == (
        "tests/server/test_a.py::test_x"
    )


def test_a_moved_module_is_the_same_and_a_deleted_test_is_named():
    source = "def test_x():\n    assert 1\n"
    moved = scopes(source, "tests/dialogue/test_a.py")

    assert compare_scopes(scopes(source), moved) == ([], 0)
    assert differences(scopes(source), scopes(source, "tests/dialogue/test_b.py")) == [
        "tests/server/test_a.py::test_x: gone, with 1 assertions"
    ]


def test_helpers_may_move_between_modules_and_new_tests_are_counted_apart():
    helper = "def check(x):\n    assert x\n"
    new = scopes(helper + "def test_new():\n    assert 1\n", "tests/server/checks.py")

    assert compare_scopes(scopes(helper, "tests/server/conftest.py"), new) == ([], 1)


def test_changed_assertions_are_counted():
    old = scopes("def test_x():\n    assert 1\n    assert 2\ndef test_y():\n    assert 1\n    assert 2\n")
    new = scopes("def test_x():\n    assert 1\n    assert 3\ndef test_y():\n    assert 2\n    assert 1\n")

    assert [one.count for one in compare_scopes(old, new)[0]] == [2, 1]


def test_the_same_name_in_two_folders_is_matched_by_folder_first():
    strict, lax = "def test_x():\n    assert 1\n", "def test_x():\n    assert 2\n"
    before = [*scopes(strict, "tests/a/test_a.py"), *scopes(lax, "tests/b/test_a.py")]
    after = [*scopes(lax, "tests/c/test_a.py"), *scopes(strict, "tests/a/test_a.py")]

    assert compare_scopes(before, after) == ([], 0)


def test_tests_are_known_by_module_function_and_parameters():
    before = ["tests/a/test_a.py::test_x[1]", "tests/a/test_a.py::test_y", "tests/a/test_b.py::test_x[1]"]
    after = ["tests/c/test_a.py::test_x[1]", "tests/a/test_a.py::test_y", "tests/a/test_a.py::test_z"]

    assert missing_tests(before, after) == (["tests/a/test_b.py::test_x[1]"], 1)


def document(module, *, fields=("a", "b"), node="integer", kinds=("x", "y")):
    """Two models of one name, one of which refers to itself."""
    here, there = f"{module}__schema__Message", f"{module}__other__Message"
    reference = f"#/components/schemas/{here}"
    return {
        "openapi": "3.1.0",
        "paths": {
            "/v1": {"post": {"parameters": ["p", "q"], "schema": {"anyOf": [{"$ref": reference}, {}]}}}
        },
        "components": {
            "schemas": {
                here: {"required": list(fields), "properties": {"next": {"$ref": reference}, "a": node}},
                there: {"enum": list(kinds)},
            }
        },
    }


def test_documents_are_equal_but_for_order_and_module_paths():
    before = document("deepwell__server")

    assert compare_documents(before, before) == []
    assert (
        compare_documents(before, document("deepwell__dialogue", fields=("b", "a"), kinds=("y", "x"))) == []
    )


def test_a_change_in_a_component_is_named_and_so_is_what_refers_to_it():
    found = compare_documents(document("deepwell__server"), document("deepwell__server", node="string"))

    assert found == [
        "POST /v1: different",
        "component deepwell__server__schema__Message: gone, or different",
        "component deepwell__server__schema__Message: new, or different",
    ]


def test_other_lists_keep_their_order():
    before, after = document("deepwell__server"), document("deepwell__server")
    after["paths"]["/v1"]["post"]["parameters"].reverse()
    after["info"] = {"title": "x"}

    assert compare_documents(before, after) == ["POST /v1: different", "info: new"]


def test_the_interval_holds_the_median_and_is_the_same_each_time():
    ratios = [0.97, 0.99, 1.0, 1.0, 1.01, 1.02, 1.5]
    found = bootstrap_median(ratios)

    assert found == bootstrap_median(ratios)
    assert (found.median, min(ratios) <= found.low < 1.0 < found.high <= 1.5) == (1.0, True)
    assert bootstrap_median([1.0]) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("bar", "estimate", "verdict"),
    [
        (Bar(0.98, 0.95), Estimate(0.98, 0.95, 1.0), "holds"),
        (Bar(0.98, 0.95), Estimate(1.0, 0.949, 1.1), "undecided"),
        (Bar(0.98, 0.95), Estimate(0.979, 0.97, 1.0), "fails"),
        (Bar(0.98, 0.95), Estimate(float("nan"), 0.97, 1.0), "fails"),
        (Bar(0.15, higher_is_better=False), Estimate(0.15, -1.0, 9.0), "holds"),
        (Bar(0.15, higher_is_better=False), Estimate(0.16, 0.1, 0.2), "fails"),
        (Bar(0.15, 0.3, higher_is_better=False), Estimate(0.1, 0.0, 0.31), "undecided"),
    ],
)
def test_what_an_estimate_decides(bar, estimate, verdict):
    assert bar.judge(estimate) == verdict


def test_pairs_alternate_and_sides_are_opened_anew(monkeypatch):
    monkeypatch.setattr("deepwell_bench.harness.pairs.SETTLE_SECONDS", 0)
    calls: list[str] = []

    @contextlib.contextmanager
    def sides():
        calls.append("open")
        yield (
            (lambda number: calls.append(f"a{number}") or 1.0),
            (lambda number: calls.append(f"b{number}") or 2.0),
        )

    figures = run_pairs(sides, PAIRS_A_START + 1)

    assert figures == [(1.0, 2.0)] * (PAIRS_A_START + 1)
    assert calls[:11] == ["open", "a0", "b0", "a1", "b1", "b1", "a1", "b2", "a2", "a2", "b2"]
    assert calls.count("open") == 2
    assert calls[-7:] == ["open", "a0", "b0", "b6", "a6", "a6", "b6"]


def test_packed_weights_that_are_written_again_are_told_apart(tmp_path):
    file = tmp_path / "a.dwpack"
    file.write_bytes(b"weights")
    before = packed_files(tmp_path)
    copy = tmp_path / "copy"
    copy.write_bytes(b"weights")

    assert packed_files(tmp_path)[0] == before[0]
    copy.replace(file)
    assert packed_files(tmp_path) != before


def test_blob_ids_are_those_of_git():
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two commits, the first of which has a golden file."""
    root = tmp_path / "repository"
    (root / "tests").mkdir(parents=True)
    git(root, "init", "-q")
    (root / "tests" / "golden.json").write_text("{}", encoding="utf-8")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    git(root, "commit", "-qm", "two", "--allow-empty")
    monkeypatch.setattr(revisions, "repository", lambda: root)
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(revisions.VARIABLE, raising=False)
    return root


def test_files_of_a_commit_are_known_by_their_blobs(repository):
    assert revisions.tracked_blobs("HEAD~1", ("tests",)) == {"tests/golden.json": blob_id(b"{}")}


def test_a_commit_that_is_not_here_is_refused(repository):
    with pytest.raises(PeerError, match="no commit 'no-such-branch'"):
        revisions.open_revision("no-such-branch", Console(quiet=True))


def test_the_named_checkout_has_to_be_installed_clean_and_of_that_commit(repository, monkeypatch):
    monkeypatch.setenv(revisions.VARIABLE, str(repository))
    with pytest.raises(PeerError, match=r"has no \.venv"):
        revisions.open_revision("HEAD", Console(quiet=True))
    python = repository / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho /elsewhere/deepwell/__init__.py\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(PeerError, match=r"a checkout of .* and not of"):
        revisions.open_revision("HEAD~1", Console(quiet=True))
    with pytest.raises(PeerError, match="imports /elsewhere/deepwell, which is not in"):
        revisions.open_revision("HEAD", Console(quiet=True))
    (repository / "tests" / "golden.json").write_text("[]", encoding="utf-8")
    with pytest.raises(PeerError, match="has uncommitted changes"):
        revisions.open_revision("HEAD", Console(quiet=True))


def test_programs_are_found_where_a_tree_has_them(tmp_path):
    revision = revisions.Revision("old", "0" * 40, tmp_path, tmp_path / "python")
    bench = tmp_path / "src" / "deepwell" / "bench"
    (bench / "workers").mkdir(parents=True)
    (bench / "paced.py").touch()
    assert revision.module("paced") == "deepwell.bench.paced"
    (bench / "workers" / "paced.py").touch()
    assert revision.module("paced") == "deepwell.bench.workers.paced"
    newest = tmp_path / "bench" / "src" / "deepwell_bench" / "workers"
    newest.mkdir(parents=True)
    (newest / "paced.py").touch()
    assert revision.module("paced") == "deepwell_bench.workers.paced"
    here = revisions.this_checkout()
    assert [here.module(program) for program in revisions.PROGRAMS] == [
        names[0] for names in revisions.PROGRAMS.values()
    ]

"""Contracts of the collections with judgements."""

from __future__ import annotations

from deepwell_bench.workloads.knowledge.cranfield import cranfield
from deepwell_bench.workloads.knowledge.law import cited


def test_cranfield_is_whole() -> None:
    found = cranfield()
    assert len(found.documents) == 1400
    assert len(found.queries) == 225
    assert sum(map(len, found.qrels.values())) >= 1830  # of 1,836 lines, a few name a pair twice
    assert found.documents["1"].startswith(
        "experimental investigation of the aerodynamics of a wing in a slipstream .\nan"
    )
    assert found.qrels["1"]["184"] == 3  # code 2
    assert {grade for grades in found.qrels.values() for grade in grades.values()} == {0, 1, 2, 3, 4}


def test_citations_are_found_by_full_and_short_names() -> None:
    ids = {
        ("中华人民共和国劳动法", "第三条"): "1",
        ("中华人民共和国公司法(2023修订)", "第十条"): "2",
        ("仲裁法", "第三条"): "3",
    }
    text = "根据《中华人民共和国劳动法》第三条和《公司法》第十条，以及劳动仲裁法第三条，另见《合同法》第九条、劳动法第四条。"
    assert list(cited(text, ids)) == ["1", "2", "3"]

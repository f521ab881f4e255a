"""Field tables: facts with their source, and the reader that makes them of TypeScript's declarations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.workers.fleet.field_tables import SOURCES, Declarations

TABLES = sorted((repository() / "bench" / "data" / "fleet" / "fields").glob("*.json"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_names_its_source_and_is_a_schema(path: Path) -> None:
    table = json.loads(path.read_text("utf-8"))
    source = table["source"]
    assert source["revision"] in source["url"]
    assert source["project"].split("/")[-1] in source["url"]
    for kind, schema in table["kinds"].items():
        group, version, name = kind.rsplit("/", 2)
        jsonschema.Draft202012Validator.check_schema({**schema, "$defs": table["$defs"]})
        assert schema["properties"]["apiVersion"] == {"const": f"{group}/{version}"}
        assert schema["properties"]["kind"] == {"const": name}
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_table_is_of_the_package_that_the_reader_names(source: Any) -> None:
    (path,) = (one for one in TABLES if one.stem == source.name)
    table = json.loads(path.read_text("utf-8"))
    assert source.sha256 in table["source"]["read_from"]
    assert sorted(table["kinds"]) == sorted(source.kinds)


def declared(tmp_path: Path, text: str, **others: str) -> tuple[dict[str, Any], Declarations]:
    folder = tmp_path / "g.io" / "v1"
    folder.mkdir(parents=True)
    (folder / "Thing.d.ts").write_text(text, "utf-8")
    for name, other in others.items():
        (folder / f"{name}.d.ts").write_text(other, "utf-8")
    reader = Declarations(tmp_path)
    return reader.kind("g.io/v1/Thing"), reader


def test_fields_types_and_enumerations_are_read(tmp_path: Path) -> None:
    schema, reader = declared(
        tmp_path,
        """import { ISub } from "./Sub.js";
        export interface IThing extends TypeMeta {
            /** A comment; with "quotes"?: and braces } */
            "mode"?: "A" | "B";
            "many": Array<{ "name": string; "weight"?: number | string; }>;
            "map"?: { [key: string]: boolean; };
            "any"?: {};
            "sub"?: ISub;
            "status"?: ISub;
        }""",
        Sub='import { ISub } from "./Sub.js";\nexport interface ISub { "again"?: ISub; }\n',
    )
    fields = schema["properties"]
    assert fields["mode"] == {"enum": ["A", "B"]}
    assert fields["many"]["items"]["required"] == ["name"]
    assert fields["many"]["items"]["properties"]["weight"] == {
        "anyOf": [{"type": "number"}, {"type": "string"}]
    }
    assert fields["map"] == {"type": "object", "additionalProperties": {"type": "boolean"}}
    assert fields["any"] == {"type": "object"}
    assert fields["sub"] == {"$ref": "#/$defs/Sub"}
    assert reader.definitions["Sub"]["properties"] == {"again": {"$ref": "#/$defs/Sub"}}
    assert "status" not in fields
    assert schema["required"] == ["apiVersion", "kind", "many", "metadata"]


def test_fields_of_a_parent_and_of_joined_types_are_kept(tmp_path: Path) -> None:
    schema, _ = declared(
        tmp_path,
        """import { IBase } from "./Base.js";
        export interface IThing extends IBase {
            "one"?: { "a"?: string; "b"?: number; } & (Exclude<{ "a"?: any1; }, { "b": number; }> | { "c": string; });
        }""".replace("any1", "string"),
        Base='export interface IBase { "inherited": string; }\n',
    )
    assert set(schema["properties"]["one"]["properties"]) == {"a", "b", "c"}
    assert schema["properties"]["inherited"] == {"type": "string"}
    assert "inherited" in schema["required"]


@pytest.mark.parametrize("text", ["export interface IOther { }", 'export interface IThing { "a": unknown; }'])
def test_what_is_not_understood_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(PeerError):
        declared(tmp_path, text)

"""Makes the field tables of `bench/data/fleet/fields` from the type declarations that npm packages carry.

Run it as `python -m deepwell_bench.workers.fleet.field_tables`. A table is a JSON schema that keeps facts alone: names of
fields, their types, which are required, and values of enumerations. The packages are fetched by version and sha256.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError

__all__ = ["Declarations", "main"]

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Package whose declarations are read, and the release of the project that they were made from."""

    name: str
    package: str
    version: str
    sha256: str
    project: str
    revision: str
    url: str
    kinds: tuple[str, ...]  # files of the package, without their ending


SOURCES: Final = (
    Source(
        "gateway-api",
        "@kubernetes-models/gateway-api",
        "2.0.0",
        "505c284b74d2f71803803543816abe3fe58e4b0ec6d98f3bd4989726d469b81b",
        "sigs.k8s.io/gateway-api",
        "v1.5.1",
        "https://github.com/kubernetes-sigs/gateway-api/tree/v1.5.1/apis/v1",
        ("gateway.networking.k8s.io/v1/HTTPRoute",),
    ),
    Source(
        "argo-rollouts",
        "@kubernetes-models/argo-rollouts",
        "2.0.0",
        "3bee5717bb8cb4db784f7da9e582fdd5c6350a311e1aabee8fd44a707e246a51",
        "github.com/argoproj/argo-rollouts",
        "v1.9.0",
        "https://github.com/argoproj/argo-rollouts/tree/v1.9.0/pkg/apis/rollouts/v1alpha1",
        ("argoproj.io/v1alpha1/Rollout", "argoproj.io/v1alpha1/AnalysisTemplate"),
    ),
    Source(
        "istio",
        "@kubernetes-models/istio",
        "3.0.1",
        "a319f9e8a3496cc1d598ca6d451f73ba049756be1d6663479a07eb88d0d22353",
        "github.com/istio/istio",
        "1.29.2",
        "https://github.com/istio/istio/blob/1.29.2/manifests/charts/base/files/crd-all.gen.yaml",
        (
            "security.istio.io/v1/PeerAuthentication",
            "security.istio.io/v1/AuthorizationPolicy",
            "networking.istio.io/v1/VirtualService",
            "networking.istio.io/v1/DestinationRule",
        ),
    ),
)

_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\w+|[{}\[\]()<>:;,|&?]')
_DECLARED: Final = re.compile(r"export (?:interface|type) (I\w+)(?: extends ([\w, ]+))? (?:=\s*)?(?=[{\"\w])")
_IMPORT: Final = re.compile(r'import \{ ([\w, ]+) \} from "([^"]+)"')
_EMPTY: Final = {"type": "object", "required": list[str](), "additionalProperties": False}
_SIMPLE: Final = {"string": "string", "number": "number", "boolean": "boolean", "object": "object"}


class Declarations:
    """Reads the TypeScript declarations of one package as JSON schemas, one definition a type.

    Attributes:
        definitions: schemas so far, by the name of their type.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.definitions: dict[str, Schema] = {}

    def kind(self, file: str) -> Schema:
        """Returns the schema of a kind; its status is left out, because a cluster writes that."""
        group, version, name = file.rsplit("/", 2)
        schema = self._declared(self._root / f"{file}.d.ts", f"I{name}")
        schema["properties"].pop("status", None)
        schema["properties"] |= {
            "apiVersion": {"const": f"{group}/{version}"},
            "kind": {"const": name},
            "metadata": {"type": "object"},
        }
        return schema | {"required": sorted({"apiVersion", "kind", "metadata", *schema["required"]})}

    def _declared(self, path: Path, name: str) -> Schema:
        """Reads one declaration, and those that it names."""
        text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        imported = {
            one: (path.parent / source).with_suffix(".d.ts") if source.startswith(".") else Path(source)
            for names, source in _IMPORT.findall(text)
            for one in names.split(", ")
        }
        for found in _DECLARED.finditer(text):
            if found[1] == name:
                break
        else:
            raise PeerError(f"{path.name} declares no {name}")
        tokens = _Tokens(_TOKEN.findall(text[found.end() :]))
        schema = self._type(tokens, imported)
        for parent in (found[2] or "").split(", "):
            if parent in imported and imported[parent].is_absolute():
                inherited = self._declared(imported[parent], _own(parent, imported[parent]))
                schema["properties"] = {**inherited["properties"], **schema["properties"]}
                schema["required"] = sorted({*inherited["required"], *schema["required"]})
        return schema

    def _type(self, tokens: _Tokens, imported: Mapping[str, Path]) -> Schema:
        """Reads a type: alternatives between bars."""
        alternatives = [self._joined(tokens, imported)]
        while tokens.take("|"):
            alternatives.append(self._joined(tokens, imported))
        if all("const" in one for one in alternatives):
            return {"enum": [one["const"] for one in alternatives]}
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}

    def _joined(self, tokens: _Tokens, imported: Mapping[str, Path]) -> Schema:
        """Reads a type and those joined to it by `&`, which say what goes together: of those, the fields alone are kept."""
        schema = self._alternative(tokens, imported)
        while tokens.take("&"):
            schema["properties"] = {
                **_properties(self._alternative(tokens, imported)),
                **schema["properties"],
            }
        return schema

    def _alternative(self, tokens: _Tokens, imported: Mapping[str, Path]) -> Schema:
        token = tokens.next()
        if token == "{":  # noqa: S105
            return self._fields(tokens, imported)
        if token[0] in '"0123456789':
            return {"const": json.loads(token)}
        if token == "(":  # noqa: S105
            inner = self._type(tokens, imported)
            tokens.expect(")")
            return {**_EMPTY, "properties": _properties(inner)}
        if token == "Exclude":  # noqa: S105
            tokens.expect("<")
            self._type(tokens, imported)
            tokens.expect(",")
            self._type(tokens, imported)
            tokens.expect(">")
            return {**_EMPTY, "properties": {}}
        if token == "Array":  # noqa: S105
            tokens.expect("<")
            items = self._type(tokens, imported)
            tokens.expect(">")
            return {"type": "array", "items": items}
        if token in _SIMPLE:
            return {"type": _SIMPLE[token]}
        if token not in imported:
            raise PeerError(f"the declarations have {token!r} where a type should be")
        return self._reference(token, imported[token])

    def _fields(self, tokens: _Tokens, imported: Mapping[str, Path]) -> Schema:
        """Reads what lies between braces: a map, or named fields. No other name is allowed then."""
        properties: dict[str, Schema] = {}
        required: list[str] = []
        while not tokens.take("}"):
            name = tokens.next()
            if name == "[":
                while tokens.next() != "]":
                    pass
                tokens.expect(":")
                values = self._type(tokens, imported)
                tokens.take(";")
                tokens.expect("}")
                return {"type": "object", "additionalProperties": values}
            if not tokens.take("?"):
                required.append(json.loads(name))
            tokens.expect(":")
            values = self._type(tokens, imported)
            # `{}` of a field means any object.
            properties[json.loads(name)] = values if values.get("properties", True) else {"type": "object"}
            tokens.take(";")
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _reference(self, token: str, path: Path) -> Schema:
        """Returns a reference to a type of the package; what another package declares is left to Kubernetes' own schemas."""
        if not path.is_absolute():
            return {"$comment": path.name}
        name = _own(token, path)[1:]
        if name not in self.definitions:
            self.definitions[name] = {}  # a type may name itself
            self.definitions[name] = self._declared(path, f"I{name}")
        return {"$ref": f"#/$defs/{name}"}


def _properties(schema: Schema) -> Schema:
    """Returns the fields of a schema and of its alternatives."""
    found: Schema = {}
    for one in schema.get("anyOf", ()):
        found |= _properties(one)
    return found | schema.get("properties", {})


class _Tokens:
    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens: Iterator[str] = iter(tokens)
        self._ahead = next(self._tokens)

    def next(self) -> str:
        token, self._ahead = self._ahead, next(self._tokens, "")
        return token

    def take(self, token: str) -> bool:
        """Goes on behind a token if it is the next."""
        if self._ahead != token:
            return False
        self.next()
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise PeerError(f"the declarations have {self._ahead!r} where {token!r} should be")


def _own(token: str, path: Path) -> str:
    """Returns the name that a file gives to its own type, for a name under which another imports it."""
    return f"I{path.name.removesuffix('.d.ts')}"


def _fetched(source: Source, folder: Path) -> Path:
    """Returns the unpacked package.

    Raises:
        PeerError: its bytes are others.
    """
    command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.tgz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != source.sha256:
        raise PeerError(f"{source.package} {source.version} has the sha256 {found}, not {source.sha256}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "package"


def main() -> None:
    """Writes every table."""
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            declarations = Declarations(_fetched(source, Path(folder)).resolve())
            kinds = {one: declarations.kind(one) for one in source.kinds}
        table = {
            "source": {
                "project": source.project,
                "revision": source.revision,
                "url": source.url,
                "read_from": f"npm {source.package} {source.version}, sha256 {source.sha256}",
            },
            "kinds": kinds,
            "$defs": declarations.definitions,
        }
        path = repository() / "bench" / "data" / "fleet" / "fields" / f"{source.name}.json"
        path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

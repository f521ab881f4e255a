"""`deepwell deploy render`: writes what a cluster, or Envoys on machines of your own, run of a declaration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.fleet.deploy.manifests import Declared, Rendered

__all__ = ["Keys", "Load", "register"]

_Target = Literal["mesh", "envoy", "compose"]
_File = Annotated[Path, typer.Argument(help="Declaration, such as deploy.yaml.", metavar="FILE")]
_Folder = Annotated[
    Path, typer.Argument(help="Folder to write into; it is made if need be.", metavar="FOLDER")
]
_Controller = Literal["gateway-api", "argo-rollouts", "istio", "kserve"]


Load = Callable[[Path], "Declared"]
Keys = Callable[["Declared"], Mapping[str, tuple[str, str]] | None]
"""Returns tenant and id of every API key by the SHA-256 of the key; None: there are no keys."""


def _declared(path: Path) -> Declared:
    from deepwell.fleet.deploy.declaration import load_declaration

    return load_declaration(path)


def _owners(declared: Declared) -> Mapping[str, tuple[str, str]] | None:
    from deepwell.fleet.deploy.declaration import Declaration
    from deepwell.fleet.deploy.machine import settings_of
    from deepwell.fleet.deploy.owners import owners_of
    from deepwell.settings import Settings
    from deepwell.storage.database import Database
    from deepwell.storage.keys import KeyStore

    assert isinstance(declared, Declaration)
    settings = settings_of(declared, Settings.load())
    database = Database.of(settings)
    try:
        found = asyncio.run(owners_of(list(settings.api_keys), KeyStore(database)))
    finally:
        database.close()
    return None if found is None else {key: (one.tenant, one.key_id) for key, one in found.items()}


def _composed(declared: Declared, folder: Path) -> Rendered:
    from deepwell.fleet.deploy.declaration import Declaration
    from deepwell.fleet.pods.compose import render_compose
    from deepwell.settings import Settings

    assert isinstance(declared, Declaration)
    settings = Settings.load()
    return render_compose(declared, folder, settings.models_dir, answer_s=settings.request_timeout_s)


def _lacking(declared: Declared) -> list[str]:
    from deepwell.fleet.deploy.declaration import Declaration
    from deepwell.fleet.deploy.planning import lacking
    from deepwell.settings import Settings

    assert isinstance(declared, Declaration)
    return lacking(declared, Settings.load())


def _show(made: Rendered, to: str, lacks: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        files = [str(one) for one in made.files]
        write_json({"to": to, "files": files, "commands": list(made.commands), "lacks": list(lacks)})
        return
    out = console()
    for one in made.files:
        out.print(f"wrote {one}", soft_wrap=True)
    for line in lacks:
        out.print(f"note  {line}", soft_wrap=True)
    for command in made.commands:
        out.print(f"run   {command}", soft_wrap=True)


def register(app: typer.Typer, load: Load = _declared, keys: Keys = _owners) -> None:
    """Adds the verb.

    Args:
        load: reads a declaration.
        keys: reads the owners of keys, by which an edge draws users as the servers do.
    """

    @app.command()
    def render(
        declaration: _File,
        folder: _Folder,
        to: Annotated[
            _Target,
            typer.Option(
                help="Form to write; a mesh is a Kustomize overlay, a compose file has the grade containers."
            ),
        ] = "mesh",
        controller: Annotated[
            _Controller, typer.Option(help="Part of the cluster that switches between releases.")
        ] = "gateway-api",
        image: Annotated[
            str, typer.Option(help="Image of the server, with its tag or digest.")
        ] = "localhost/deepwell:api",
        candidate: Annotated[
            str | None, typer.Option(help="Model of the candidate; left out: there is none.")
        ] = None,
        share: Annotated[
            float, typer.Option(min=0, max=1, help="Share of the requests that the candidate gets.")
        ] = 0.0,
        base: Annotated[
            Path | None,
            typer.Option(help="Folder deploy/kustomize of a checkout; left out: that of this installation."),
        ] = None,
        replica: Annotated[
            list[str] | None,
            typer.Option(
                metavar="RELEASE=ADDRESS[:PORT]",
                help="Sidecar of a replica of the current or the candidate release, for --to envoy; repeatable.",
            ),
        ] = None,
        rollout: Annotated[
            str, typer.Option(help="Id of the roll-out, by which servers draw users too, for --to envoy.")
        ] = "",
        json: JsonFlag = False,
    ) -> None:
        """Write the mesh or the compose file of a deployment, and print the commands that apply it.

        A Kustomize overlay names no secret: the Secret `deepwell` is made from files by a command that is printed. Files of
        Envoys come with certificates. Written anew, they change shares and replicas of an edge that runs. A compose file comes
        with passwords and a first API key in its folder `secrets`, which stay when it is written anew.
        """
        with reported_errors(as_json=json):
            from deepwell.fleet.deploy.envoys import parse_replicas, render_envoys
            from deepwell.fleet.deploy.manifests import checkout_base, render_mesh
            from deepwell.fleet.deploy.mesh import Traffic

            declared = load(declaration)
            lacks: list[str] = []
            if to == "envoy":
                traffic = Traffic(parse_replicas(replica or ()), share, rollout, keys(declared))
                made = render_envoys(folder, traffic, port=declared.port)
            elif to == "compose":
                made, lacks = _composed(declared, folder), _lacking(declared)
            else:
                made = render_mesh(
                    declared,
                    folder,
                    base=base or checkout_base(),
                    controller=controller,
                    image=image,
                    candidate=candidate,
                    share=share,
                )
            _show(made, to, lacks, as_json=json)

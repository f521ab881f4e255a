"""`deepwell deploy render`: writes what a cluster, or Envoys on machines of your own, run of a declaration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.fleet.deploy.manifests import Declared

__all__ = ["register"]

_Target = Literal["mesh", "envoy"]
_Controller = Literal["gateway-api", "argo-rollouts", "istio", "kserve"]


def register(app: typer.Typer, load: Callable[[Path], Declared]) -> None:
    """Adds the verb.

    Args:
        load: reads a declaration.
    """

    @app.command()
    def render(
        declaration: Annotated[Path, typer.Argument(help="File of the declaration, such as deploy.yaml.")],
        folder: Annotated[Path, typer.Argument(help="Folder of the overlay; it is made if need be.")],
        to: Annotated[
            _Target, typer.Option(help="Grade to write for; a mesh is a Kustomize overlay.")
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
        json: JsonFlag = False,
    ) -> None:
        """Writes the mesh of a deployment, and prints the commands that apply it.

        A Kustomize overlay names no secret: the Secret `deepwell` is made from files by a command that is printed. Files of
        Envoys come with certificates. Written anew, they change shares and replicas of an edge that runs.
        """
        with reported_errors(as_json=json):
            from deepwell.fleet.deploy.envoys import parse_replicas, render_envoys
            from deepwell.fleet.deploy.manifests import checkout_base, render_mesh

            declared = load(declaration)
            if to == "envoy":
                made = render_envoys(folder, parse_replicas(replica or ()), port=declared.port, share=share)
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
            if json:
                write_json(
                    {"to": to, "files": [str(one) for one in made.files], "commands": list(made.commands)}
                )
                return
            out = console()
            for one in made.files:
                out.print(f"wrote {one}")
            for command in made.commands:
                out.print(f"run   {command}", soft_wrap=True)

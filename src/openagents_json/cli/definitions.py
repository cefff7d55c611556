"""`openagents validate`, `openagents schema` and `openagents components`: what can be said without a job."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.options import Components, Json, Resources
from openagents_json.cli.output import output_of


def validate(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The workflow: a .json or .yaml file.")],
    components: Components = None,
    resource: Resources = None,
    as_json: Json = False,
) -> int:
    """Check a workflow and print everything that is wrong with it, with path, line and column.

    With --components also whether its components exist and what flows between them fits. With --resource, or an app
    that declares resources, also whether there is enough of what steps occupy. Warnings and notes change nothing about
    the exit code.
    """
    from openagents_json.cli.describing import validate_file

    return validate_file(file, components or [], resource or [], output_of(context, as_json))


def schema(context: typer.Context, as_json: Json = False) -> int:
    """Print the JSON Schema of workflow definitions, for editors and other tools."""
    from openagents_json.cli.describing import print_schema

    return print_schema(output_of(context, as_json))


def components(
    context: typer.Context,
    components: Components = None,
    name: Annotated[str | None, typer.Option("--name", metavar="GLOB", help="Only names that match.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only those with this tag.")] = None,
    as_json: Json = False,
) -> int:
    """List the components that workflows can use: the built-in ones and those of --components."""
    from openagents_json.cli.describing import list_components

    return list_components(components or [], name, tag, output_of(context, as_json))

"""`headrace keys`: keys of the API."""

from typing import Annotated

import typer

from headrace.cli.api_client import fail
from headrace.keys import is_tenant, key_line, new_key

app = typer.Typer(no_args_is_help=True)


@app.callback()
def options() -> None:
    """Keys of the API."""


@app.command()
def new(tenant: Annotated[str, typer.Argument(help="Whose jobs the key's holder may see.")]) -> None:
    """Make a key: print it, and the line that goes into the file that HEADRACE_KEYS_FILE names. It is stored nowhere."""
    if not is_tenant(tenant):
        raise fail("a tenant's name is 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit")
    key = new_key()
    typer.echo(f"key:  {key}\nline: {key_line(key, tenant)}")

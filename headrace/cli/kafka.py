"""`headrace kafka`: the topics of HEADRACE_QUEUE_URL."""

from typing import Annotated

import typer

from headrace.cli.api_client import fail
from headrace.errors import LogUnavailable, SettingsError
from headrace.settings import load_settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def options() -> None:
    """The topics in Kafka."""


@app.command()
def init(dry_run: Annotated[bool, typer.Option("--dry-run", help="Make nothing: say what is missing and what differs.")] = False) -> None:
    """Make the topics that are missing, and say how the others differ from what they should be. They are left as they are: a partition more
    sends a key elsewhere, and a shorter retention deletes."""
    try:
        # Not above: the client is there only where Kafka is wanted.
        from headrace.kafka.address import address_of
        from headrace.kafka.survey import survey
        from headrace.kafka.topics import create, shapes

        settings = load_settings()
        address = address_of(settings)
        if address is None:
            raise fail("HEADRACE_QUEUE_URL is not set: it names the brokers, as in kafka://localhost:9092")
        wanted = shapes(settings)
        found = survey(address, wanted)
        made = [] if dry_run else create(address, wanted)
    except ModuleNotFoundError as error:
        raise fail(f"it needs the package {error.name}: pip install headrace[kafka]") from None
    except (SettingsError, LogUnavailable) as error:
        raise fail(str(error)) from None
    for shape in wanted:
        differences = found[shape.name]
        if differences is None:
            typer.echo(f"{shape.name}: {'made' if shape.name in made else 'missing'}, {shape.partitions} partitions")
        else:
            typer.echo(f"{shape.name}: there" + "".join(f"; {said}" for said in differences))

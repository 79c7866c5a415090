"""Options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option(help="A NATS server. Default: CONVIVE_NATS_URL, else the embedded one.")]
Data = Annotated[Path | None, typer.Option(help="Directory of the embedded server. Default: .convive")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a record.")]

"""Command line: parses, calls, prints. What it prints of the tables is what they say."""

from __future__ import annotations

import os
import signal
import sys

import click

from curation_assets.cli import cut, maintain, models, run, search, setup, show, sources  # noqa: F401 - they register their commands
from curation_assets.cli.base import EXIT_INTERRUPTED, EXIT_RUN_FAILED, EXIT_USAGE, cli, err
from curation_assets.settings import SettingsError
from curation_assets.storage.errors import StoreError

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line; every error that a user can mend ends as one message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # a shell's `&` leaves it ignored
    try:
        sys.exit(cli.main(prog_name="curation-assets", standalone_mode=False) or 0)
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted; what was committed stays, and the next run goes on from there")
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SettingsError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(EXIT_USAGE)
    except StoreError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(EXIT_RUN_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:  # noqa: BLE001 - a bug of ours: shown whole, and with a code that no caller takes for "some items failed"
        err.print_exception()
        sys.exit(EXIT_RUN_FAILED)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

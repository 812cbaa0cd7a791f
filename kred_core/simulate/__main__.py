"""Command line of the simulator: one option for each value of `SimulationConfig`, with its description as help."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from ..errors import KredError
from ..words import program
from . import simulate
from .config import SimulationConfig

EXAMPLES = """\
examples:
  {prog} --root demo --tiles T07 --binning 4 --exposures 3
      a small field for a first reduction: one tile, four bands
  {prog} --root test --tiles T07 --binning 16 --bands N662,r --faults all
      seconds; one exposure with each fault that a real archive hands out
  {prog} --root full --n-detectors 2 --bands N662 --exposures 1
      two detectors at full size
  {prog} --root case --tiles T07 --n-detectors 7 --bands N662,N673,r --exposures 4,3,3 --offsets 77,51,10.2
      ten exposures with seven full-size detectors each; offsets of 5.3, 3.5 and 0.7 counts28 per pixel

The same options and seed always give the same bytes. Truth: Truth/<field>/*.ecsv and sky_*.fits."""


def _parser() -> argparse.ArgumentParser:
    prog = program("python -m kred_core.simulate")
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate a field of DECam exposures with known truth, in the format of real Community Pipeline files.",
        epilog=EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, info in SimulationConfig.model_fields.items():
        kind, default = info.annotation, info.default
        how: dict[str, Any]
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
            shown = "yes" if default else "no"
        elif get_origin(kind) is list:
            how = {"metavar": "RA,DEC" if name == "centre" else "A,B,..", "type": _parts}
            shown = ",".join(map(str, default))
        else:
            choices = "|".join(map(str, get_args(kind)))
            how = {"metavar": choices or ("N" if kind is int else "NUMBER" if kind is float else "DIR" if kind is Path else "NAME")}
            shown = str(default)
        text = (info.description or "") + (f" (default: {shown})" if shown else "")
        parser.add_argument("--" + name.replace("_", "-"), help=text, default=argparse.SUPPRESS, **how)
    return parser


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulator; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        simulate(SimulationConfig(**vars(_parser().parse_args(arguments))))
    except ValidationError as e:
        for problem in e.errors():
            option = "".join(f"--{str(part).replace('_', '-')}: " for part in problem["loc"][:1])
            print(f"error: {option}{problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    except KredError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"error: cannot write: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the exposures that were listed are complete", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command ``kred``: one name for all that kred does, each by the module that does it.

Imports nothing but Python's own: what a command needs, its module imports.
"""

from __future__ import annotations

import difflib
import runpy
import sys

__all__ = ["main"]

COMMANDS = {
    "reduce": ("flows.field", "one field, from its exposures to co-added tiles, figures and a page"),
    "survey": ("flows.survey", "several fields, one after the other"),
    "tables": ("kred_core.starter", "tables to fill in: images, zero points and tiles of a field of your own"),
    "report": ("kred_core.report", "the page of a field again, from what is on disk"),
    "simulate": ("kred_core.simulate", "a field with known truth, to try everything on"),
    "serve": ("deployments.serve", "kred as a service: fields that arrive are reduced by themselves"),
    "check-install": ("kred_core.selfcheck", "whether the installation works, and compile what is compiled once"),
}

HELP = """\
usage: kred COMMAND [ARGUMENTS]

Reduce wide-field CCD mosaics of faint, extended nebulosity.

commands:
{commands}

  kred COMMAND --help       the options of a command
  kred --version            the version

A first reduction, of a small simulated field:
  kred simulate --root demo --tiles T07 --binning 16 --bands N662 --exposures 4
  kred reduce LMC_c42 T07 --root demo
Your own exposures lie in DATA/DECam_MEF/FIELD/mef, below a directory DATA of your choice:
  kred tables FIELD --root DATA               says which command comes then
  kred reduce FIELD --root DATA --dry-run     what would be done, and what it costs
  kred reduce FIELD --root DATA
"""


def main() -> None:
    """Run the command that is typed; ends this process."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        sys.argv = [f"kred {name}", *arguments]  # what its help calls it
        runpy.run_module(COMMANDS[name][0], run_name="__main__")
    elif name in ("-V", "--version"):
        import kred_core

        print(f"kred {kred_core.__version__}")
    elif name in ("", "-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<14} {words}" for name, (_, words) in COMMANDS.items())), end="")
    else:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = "options come after the command" if name.startswith("-") else f"did you mean {close[0]}?" if close else ""
        print(f"error: kred has no command {name}; {hint or 'kred --help lists them'}", file=sys.stderr)
        sys.exit(2)

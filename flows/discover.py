"""Look for fields that are new or have changed, and start their reduction: what the schedule of the service runs.

Each content of a field is started once, whoever looks and how often. What is complete and what is to be done is decided
in `kred_core.service`; this asks Prefect to do it, and tells what was found.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
from prefect import flow
from prefect.states import Completed, State

from flows import deployed, messages
from kred_core import service
from kred_core.config import DiscoverConfig, settings
from kred_core.products import FieldPaths, discard, locks, read_record, service_state, unfinished_discovery, write_record
from kred_core.service import Finding
from tasks.publish import publish_findings, publish_given_up

__all__ = ["discover_fields"]

log = logging.getLogger("kred_core.discovery")


def _options(root: Path) -> dict[str, Any]:
    return settings.service_config(["--root", str(root)])[0].discover.model_dump(mode="json")


Options = Annotated[DiscoverConfig, deployed.completed(_options, ("service", "discover"))]


@flow(name="discover fields", flow_run_name="look for new fields")
def discover_fields(root: Path, config: Options) -> State:
    """Start the reduction of each field whose files are complete and have not been reduced as they are now.

    Parameters
    ----------
    root : `~pathlib.Path`
        Data root: the directory that holds DECam_MEF.
    config : `~kred_core.config.DiscoverConfig`

    Returns
    -------
    `~prefect.states.State`
        Completed; the message counts the fields. Where waiting alone can make a field complete, another look is due when it has.
    """
    messages.to_ui()
    state = service_state(root)
    with locks.held([state / "discover.lock"], "a look for new fields", lambda holder: log.info("waiting for %s", holder)):
        for leftover in unfinished_discovery(root):
            discard(leftover)
        now = service.clock(state)
        findings = [_look(FieldPaths(root, field), config, now) for field in service.fields(root, config.fields)]
        _publish_news(state / "findings.json", findings)
    if waits := [found.waits for found in findings if found.waits]:
        deployed.look_again(60 * min(waits))
    counts = Counter(f.state for f in findings)
    return Completed(message=", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "no field is there yet")


def _look(paths: FieldPaths, config: DiscoverConfig, now: float) -> Finding:
    found = service.examine(paths, config, now)
    if found.state != "complete":
        return found

    def begin(attempt: int) -> str:
        options = deployed.options(paths.root, paths.field)
        return deployed.start_field(options, key=f"{options.root} {found.key(attempt)}")

    return service.reduce_once(paths, found, config.tries, deployed.state_of, begin)


def _publish_news(file: Path, findings: list[Finding]) -> None:
    """Tell what is new since the last look; a look every few minutes that finds nothing new leaves nothing behind."""
    before = read_record(file) or {}
    known = {f.field: [f.state, f.reason if f.state == "changing" else ""] for f in findings}
    for found in findings:
        if known[found.field] != before.get(found.field):
            log.info("%s: %s, %s", found.field, found.state, found.reason)
            if found.state == "given up":
                publish_given_up(found)
    if known != before:
        publish_findings(findings)
        write_record(file, known)

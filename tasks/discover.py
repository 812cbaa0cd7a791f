"""Discover: what the Prefect UI shows of the fields that were found, and of those that nobody can reduce."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.utilities.urls import url_for

from kred_core.service.discovery import Finding

from .markdown import key, plain, table

__all__ = ["publish_findings", "publish_given_up"]


def publish_findings(findings: Iterable[Finding]) -> None:
    """All fields and what is known of them, as a table."""
    rows = ([plain(f.field), f.state, plain(f.reason), _link(f.run)] for f in findings)
    text = table(["field", "state", "", "run"], rows)
    create_markdown_artifact(key="fields", markdown=text, description="Fields below DECam_MEF, and what became of them")


def publish_given_up(found: Finding) -> None:
    """A notice that a field needs a person."""
    text = (
        f"**{plain(found.field)}** {plain(found.reason)}. Why, is in the log of its last run ({_link(found.run)}) and in "
        f"`Log/{found.field}.log`. When that is mended, start the deployment *field* for it, or change its files."
    )
    create_markdown_artifact(key=key(found.field, "given-up"), markdown=text, description=f"{found.field} {found.reason}")


def _link(run: str) -> str:
    return f"[run]({url_for('flow-run', obj_id=UUID(run))})" if run else ""

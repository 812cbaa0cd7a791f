"""The parameters of a run, option by option: what was typed over the deployment's, over kred.toml, over kred's own defaults.

Prefect knows whole parameters only: whoever types one option of ``config`` would lose all others that the deployment or
kred.toml set. So a flow that was started for a deployment completes what it was given before it begins.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import deployment
from pydantic import BeforeValidator, ValidationInfo

from kred_core.config import FieldConfig, ServiceConfig
from kred_core.config.settings.appearance import CONFIG_FILE
from kred_core.errors import KredError
from kred_core.products import read_record, service_memory, write_record

__all__ = ["completed", "remember_file", "require_root"]


def completed(options: Callable[[Path], dict[str, Any]], within: Sequence[str] = ()) -> BeforeValidator:
    """Return what completes a flow's parameter ``config``, for the annotation of that.

    Parameters
    ----------
    options : callable
        Takes the data root, returns the options as kred.toml and the environment give them now, by section. The data root
        is an option of ``config`` itself or a parameter ``root`` before it.
    within : sequence of str
        The section of kred.toml that has these options.
    """

    def complete(typed: Any, info: ValidationInfo) -> Any:
        if not isinstance(typed, dict):  # a complete configuration, of a command or a notebook
            return typed
        deployed = _deployed()
        config = deployed.get("config") or {}
        if typed == config:
            typed = {}  # by the schedule, or by somebody who left all as it was
        root = info.data.get("root") or typed.get("root") or config.get("root") or "."
        registered = read_record(_memory(Path(deployed.get("root") or config.get("root") or root))) or {}
        for section in within:
            registered = registered.get(section, {})
        try:
            known = options(Path(root))
        except KredError as e:
            raise ValueError(str(e)) from e  # which Prefect tells as it tells of other values that cannot be used
        return _over(typed, _over(_changed(config, registered), known))

    return BeforeValidator(complete)


def require_root() -> None:
    """End ``prefect deploy`` where it does not know the data root: the first step of prefect.yaml."""
    if not os.environ.get("KRED_ROOT"):
        sys.exit("error: KRED_ROOT is not set, the data root; better is: python deployments/register.py --root DIR")


def remember_file(root: Path) -> None:
    """Write down what kred.toml says while the deployments are made: of what they only repeat counts what it says later.

    Parameters
    ----------
    root : `~pathlib.Path`
        Data root. Where it cannot be written to, the deployments' options count as they are.
    """
    file = root / CONFIG_FILE
    with suppress(OSError):
        if root.is_dir():
            text = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            own = {"service": ServiceConfig().model_dump(mode="json")} | FieldConfig(field="field").model_dump(mode="json")
            write_record(_memory(root), _over(text, own))


def _memory(root: Path) -> Path:
    return service_memory(root) / "registered.json"


def _deployed() -> dict[str, Any]:
    """The parameters of the deployment for which this run was started, if it was."""
    if not deployment.id:
        return {}
    with get_client(sync_client=True) as client:
        return client.read_deployment(UUID(deployment.id)).parameters


def _over(upper: dict[str, Any], lower: dict[str, Any]) -> dict[str, Any]:
    """Options of one source over those of another; a list is one value."""
    merged = dict(lower)
    for name, value in upper.items():
        merged[name] = _over(value, lower[name]) if _are_sections(value, lower.get(name)) else value
    return merged


def _changed(options: dict[str, Any], since: dict[str, Any]) -> dict[str, Any]:
    """The options that are not what they were."""
    return {
        name: _changed(value, since[name]) if _are_sections(value, since.get(name)) else value
        for name, value in options.items()
        if name not in since or value != since[name]
    }


def _are_sections(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)

"""Every option of kred: its name, unit, default, bounds and help text.

One pydantic model per stage, composed into `FieldConfig`. The same classes make
the command line, the contents of ``kred.toml`` and the form in the Prefect UI,
so an option is described in exactly one place. They hold plain values only
(no unions, no free dictionaries), because that is what the form can show:
an empty text or list means "not set".
"""

from .runs import DiscoverConfig, FieldConfig, ServiceConfig, SeveralConfig
from .stages import (
    AMPLIFIERS,
    NAME,
    STAGES,
    BackgroundKind,
    CheckConfig,
    CoaddConfig,
    EvaluateConfig,
    MatchConfig,
    Name,
    PrepareConfig,
    RunConfig,
    Section,
    Stage,
    StampConfig,
    SummarizeConfig,
    SurveyConfig,
    TilingConfig,
)

__all__ = [
    "AMPLIFIERS",
    "NAME",
    "STAGES",
    "BackgroundKind",
    "CheckConfig",
    "CoaddConfig",
    "DiscoverConfig",
    "EvaluateConfig",
    "FieldConfig",
    "MatchConfig",
    "Name",
    "PrepareConfig",
    "RunConfig",
    "Section",
    "ServiceConfig",
    "SeveralConfig",
    "Stage",
    "StampConfig",
    "SummarizeConfig",
    "SurveyConfig",
    "TilingConfig",
]

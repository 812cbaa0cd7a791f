"""Where options come from: command line, environment, ``kred.toml``, defaults, in this order."""

from .sources import answer, field_config, service_config, survey_configs, to_toml

__all__ = ["answer", "field_config", "service_config", "survey_configs", "to_toml"]

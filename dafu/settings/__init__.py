"""Settings: defaults in code, then a YAML file, then the environment; every problem at once.

This package knows no Kafka client, no Faust and nothing of fraud: it turns text into checked
values and says where a bad one came from.
"""

from dafu.settings.clients import SchemaRegistry, Security
from dafu.settings.files import find_conf
from dafu.settings.loading import ENVIRONMENT, load_settings
from dafu.settings.model import (
    Health,
    Limits,
    Log,
    Rings,
    Settings,
    Topics,
)
from dafu.settings.problems import Problem, SettingsError
from dafu.settings.web import Access, Web
from dafu.stages.decide import Thresholds

__all__ = [
    "ENVIRONMENT",
    "Access",
    "Health",
    "Limits",
    "Log",
    "Problem",
    "Rings",
    "SchemaRegistry",
    "Security",
    "Settings",
    "SettingsError",
    "Thresholds",
    "Topics",
    "Web",
    "find_conf",
    "load_settings",
]

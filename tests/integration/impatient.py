"""The worker's app with little patience for a schema registry that gives no answer."""

from dafu.streaming import schema_registry
from tests.integration.brisk import app

schema_registry.PATIENCE_SECONDS = 1.0  # type: ignore[misc]

__all__ = ["app"]

"""The worker's app with a producer that refuses large records, so that some sends fail."""

from tests.integration.brisk import app
from tests.integration.worker import NARROW_LARGEST

app.conf.producer_max_request_size = NARROW_LARGEST

__all__ = ["app"]

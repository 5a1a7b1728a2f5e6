"""The worker's app with short timeouts, for tests that kill workers or take topics away.

Only how long clients and broker wait for each other differs from `dafu.app`.
"""

from dafu.app import app

app.conf.broker_session_timeout = 3.0
app.conf.broker_heartbeat_interval = 0.5
app.conf.broker_rebalance_timeout = 3.0
app.conf.producer_request_timeout = 4.0

__all__ = ["app"]

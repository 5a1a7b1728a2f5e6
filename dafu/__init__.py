"""dafu: real-time payment-fraud decisions on Apache Kafka."""

__version__ = "0.1.0"

"""The engine room: record batches between Kafka and Faust, and nothing about fraud."""

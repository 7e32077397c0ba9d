"""What queues tell to the outside, for Prometheus (`prometheus`) and OpenTelemetry (`otel`).

Both are made from one table (`table`) and read `stats()` when they are asked, at no other time.
"""

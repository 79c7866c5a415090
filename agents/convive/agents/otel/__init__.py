"""OpenTelemetry: spans and metrics from the log."""

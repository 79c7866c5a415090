"""The log and the work queue on NATS JetStream."""

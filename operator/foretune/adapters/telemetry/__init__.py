"""Prometheus: one table of metrics, what fills them, and the port that shows them."""

"""Kubernetes nodes for tests whose pods run as real local processes; see `__main__`."""

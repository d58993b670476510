"""Foretune: Kubernetes-native hyperparameter tuning that learns from every finished job.

Importing this package loads nothing but the version: no torch, kopf or kubernetes.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]

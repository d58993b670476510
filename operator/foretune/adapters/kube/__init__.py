"""Kubernetes: trial attempts as Jobs, the status as a server-side apply, tokens as TokenReviews."""

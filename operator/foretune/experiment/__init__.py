"""Experiments: designers replayed on recorded tuning histories, against peers, with honest statistics."""

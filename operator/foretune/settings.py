"""Settings of a process: frozen, read once from flags and environment."""

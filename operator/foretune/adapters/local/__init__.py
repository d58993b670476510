"""Attempts as processes of this machine: `runner` starts and watches them, `folders` say what is on disk."""

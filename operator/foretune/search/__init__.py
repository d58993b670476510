"""Designers: what to try next. The only package that sees torch, and only inside the modules that need it."""

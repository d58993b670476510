"""The `foretune` command: arguments, dispatch, what is printed, exit codes. Each command imports what it needs."""

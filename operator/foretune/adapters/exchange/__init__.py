"""Files of past tasks: tables with a mapping, Optuna's storage, Katib's objects, and Foretune's own export."""

"""The built-in trainer: one trial of a model on a data set, as `trial.json` describes it."""

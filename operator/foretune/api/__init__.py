"""The TuningJob as users write it: pydantic models of the custom resource, its CRD, and manifests.

Everything wrong with a manifest is said at once, each with its path and what would be right, in the same
words in `kubectl apply`, in the status and in `foretune run`.
"""

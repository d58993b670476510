"""The suggestion service: designers behind a deadline, in process or over HTTP; stateless answers."""

from foretune.services.suggestion.service import (
    Meter,
    PriorSource,
    SuggestionService,
    extendable,
)

__all__ = ["Meter", "PriorSource", "SuggestionService", "extendable"]

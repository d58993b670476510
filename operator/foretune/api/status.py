"""Schema of `status`: what `planner.status` builds. Only the operator writes it."""

from __future__ import annotations

from typing import Any, Final

_COUNTS: Final = (
    "pending",
    "running",
    "succeeded",
    "stopped",
    "infeasible",
    "failed",
    "timedOut",
    "cancelled",
)


def _whole(text: str) -> dict[str, Any]:
    return {"type": "integer", "format": "int64", "description": text}


def _number(text: str) -> dict[str, Any]:
    return {"type": "number", "description": text}


def _text(text: str, limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit, "description": text}


def _object(text: str, /, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": text, "properties": properties}


def _list(text: str, limit: int, items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "array",
        "description": text,
        "maxItems": limit,
        "items": items,
        "x-kubernetes-list-type": "atomic",
    }


def _row(text: str) -> dict[str, Any]:
    return _object(
        text,
        trial=_whole("Index of the trial."),
        value=_number("Its objective."),
        params={
            "type": "object",
            "description": "Its configuration.",
            "maxProperties": 64,
            "additionalProperties": {"x-kubernetes-preserve-unknown-fields": True},
            "x-kubernetes-map-type": "atomic",
        },
        epochs=_number("Highest epoch reported."),
    )


_CONDITION: Final = {
    **_object(
        "One fact about the job.",
        type=_text("Accepted, Progressing, Degraded, Complete or Failed.", 316),
        status={"type": "string", "enum": ["True", "False", "Unknown"]},
        reason=_text("One word for why.", 1024),
        message=_text("One sentence for why.", 32768),
        observedGeneration=_whole("Generation of the spec that it speaks of."),
        lastTransitionTime={"type": "string", "format": "date-time"},
    ),
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
}

STATUS: Final = _object(
    "What the operator observed; the whole list of trials is in the history (`foretune trials`).",
    observedGeneration=_whole("Generation of the spec that this status speaks of."),
    phase=_text(
        "Pending, Running, Suspended, Complete or Failed; derived from the conditions, for printing.",
        64,
    ),
    conditions={
        "type": "array",
        "maxItems": 16,
        "items": _CONDITION,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    },
    counts=_object(
        "Number of trials by state.",
        **{name: {"type": "integer", "format": "int64"} for name in _COUNTS},
    ),
    progress=_text("Trials that have ended, of budget.trials.", 64),
    allocated=_whole("Trials that have a configuration, ended ones too."),
    spent=_object(
        "What was used.",
        gpuHours=_number("GPU hours held, from binding to a node to the end."),
        wallSeconds=_whole("Seconds from the first trial's creation to the latest end."),
    ),
    best=_row("The best trial that has ended."),
    top=_list("The best trials, best first.", 10, _row("A trial.")),
    running=_list("Indices of running trials.", 64, {"type": "integer", "format": "int64"}),
    recentFailures=_list(
        "The newest failures.",
        5,
        _object(
            "A trial that failed.",
            trial=_whole("Index of the trial."),
            **{"class": _text("Why it failed.", 64)},
            message=_text("What it said last.", 256),
        ),
    ),
    prior=_object(
        "What past jobs say, as of the newest proposal that tells.",
        decision=_text("used, rejected or none.", 16),
        reason=_text("Why it is not used; empty where it is.", 256),
        tasks=_list(
            "Past jobs that the predictions lean on most.",
            10,
            _object(
                "A past job.",
                ref=_text("Its namespace and name.", 384),
                weight=_number("Its share in them; below 0 where its opposite holds here."),
            ),
        ),
    ),
    optimizer=_object(
        "Who proposes configurations.",
        algorithm=_text("Algorithm of the spec.", 64),
        fallbacks=_whole("Proposals for which another method stood in."),
    ),
)
"""The structural schema of `status`."""

"""What a trial used, added up over its processes."""

from __future__ import annotations

import pytest

from foretune.domain.usage import added_up

FIRST = {
    "wall_s": 10.5,
    "cpu_s": 9.25,
    "cpu_source": "cgroup2",
    "gpu_held_s": 10.5,
    "gpu_busy_s": 4.0,
    "gpu_busy_source": "gpm",
    "energy_j": 900.0,
    "energy_scope": "device",
    "gpu_mem_peak_bytes": 500,
    "rss_peak_bytes": 2000,
    "samples": 1000,
    "samples_per_s": 250.0,
    "phase_s": {"startup": 2.0, "train": 4.0},
    "something": "else",
}
SECOND = {
    **FIRST,
    "cpu_s": 1.5,
    "gpu_mem_peak_bytes": 700,
    "rss_peak_bytes": 1000,
    "samples": 500,
    "phase_s": {"startup": 2.0, "train": 1.0, "eval": 0.5},
}


def test_one_process() -> None:
    """Of one process the figures stay as they are; names that nobody knows are left out."""
    assert added_up([FIRST]) == {k: v for k, v in FIRST.items() if k != "something"}


def test_two_processes() -> None:
    """Seconds, joules and examples add up, the highest peak counts, speed is that of the whole training."""
    assert added_up([FIRST, {}, SECOND]) == {
        "wall_s": 21.0,
        "cpu_s": 10.75,
        "cpu_source": "cgroup2",
        "gpu_held_s": 21.0,
        "gpu_busy_s": 8.0,
        "gpu_busy_source": "gpm",
        "energy_j": 1800.0,
        "energy_scope": "device",
        "gpu_mem_peak_bytes": 700,
        "rss_peak_bytes": 2000,
        "samples": 1500,
        "samples_per_s": 300.0,
        "phase_s": {"startup": 4.0, "train": 5.0, "eval": 0.5},
    }


def test_what_one_does_not_know() -> None:
    """A figure that one process lacks is unknown: never the sum of the others."""
    lacking = {k: v for k, v in SECOND.items() if k not in {"gpu_busy_s", "energy_j", "samples"}}
    lacking |= {"gpu_busy_source": "none", "energy_scope": "none"}
    found = added_up([FIRST, lacking])
    assert {"gpu_busy_s", "energy_j", "samples", "samples_per_s"}.isdisjoint(found)
    assert (found["gpu_busy_source"], found["energy_scope"]) == ("none", "none")
    assert found["cpu_s"] == 10.75


def test_two_measures() -> None:
    """Busy seconds of two measures are not one sum; CPU seconds are, and say that they are mixed."""
    found = added_up([FIRST, {**SECOND, "gpu_busy_source": "nvml", "cpu_source": "rusage"}])
    assert found["gpu_busy_source"] == "none"
    assert "gpu_busy_s" not in found
    assert (found["cpu_source"], found["cpu_s"]) == ("mixed", 10.75)


@pytest.mark.parametrize(
    "odd",
    [{"cpu_s": "9"}, {"cpu_s": True}, {"cpu_s": None}, {"phase_s": 3}, {"phase_s": {"train": "x"}}],
)
def test_odd_values(odd: dict[str, object]) -> None:
    """Reports come from any program: what is no number is no figure."""
    found = added_up([{"wall_s": 1.0, **odd}])
    assert found["wall_s"] == 1.0
    assert "cpu_s" not in found


def test_nothing() -> None:
    """A trial that said nothing used nothing that is known."""
    assert added_up([]) == added_up([{}, {}]) == {}

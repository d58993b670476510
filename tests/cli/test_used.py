"""What a trial used, in one line."""

from __future__ import annotations

import pytest

from foretune.cli import words

GPU = {
    "gpu_held_s": 60.0,
    "gpu_busy_s": 30.0,
    "gpu_busy_source": "gpm",
    "energy_j": 12345.6,
    "gpu_mem_peak_bytes": 3 * 2**30,
}


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({}, ""),
        (
            {"cpu_s": 12.34, "rss_peak_bytes": 500 * 2**20, "samples_per_s": 1234.5},
            "12.3 s of CPU, 500 MiB of memory, 1,234 examples/s",
        ),
        (GPU, "1 min 00 s of GPU (busy 30.0 s, gpm), 12,346 J, 3,072 MiB of GPU memory"),
        ({"gpu_held_s": 5.0, "gpu_busy_source": "none"}, "5.0 s of GPU"),
    ],
)
def test_used(resources: dict[str, object], said: str) -> None:
    """What is known is said; nothing stands for what is not."""
    assert words.used(resources) == said

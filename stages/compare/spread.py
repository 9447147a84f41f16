"""A metric over several runs of one recipe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.compare.comparison import Spread, System


def spreads(systems: Sequence[System]) -> tuple[Spread, ...]:
    """Return each metric's spread over runs; a metric that a run lacks is left out.

    The paper that R3F is from reports the best and the median of n runs (Aghajanyan et al. 2021, table 2:
    best of 10, median of 10). The best is chosen by the very figures that are shown, and grows with n; the
    median does neither.
    """
    found = []
    for metric in systems[0].figures:
        if not all(metric in system.figures for system in systems):
            continue
        values = np.array([system.figures[metric].mean for system in systems])
        found.append(
            Spread(
                metric,
                len(values),
                float(values.mean()),
                float(values.std(ddof=1)),
                *(float(np.quantile(values, share)) for share in (0, 0.5, 1)),
            )
        )
    return tuple(found)

"""Write estimates as lines of text: value, error bar, bias, interval."""

from __future__ import annotations

from collections.abc import Mapping

from blipcalc.stats.estimate import Estimate


def table_of(title: str, quantities: Mapping[str, Estimate]) -> str:
    """Return text with one line for each estimate, and the kind of error bars.

    quantities : {name: estimate of one number}, not empty
    """
    rows = [("", "value ± std", "bias", "95 % interval")]
    for name, estimate in quantities.items():
        low, high = estimate.interval()
        rows.append((name, str(estimate), f"{float(estimate.bias):+.2g}", f"{float(low):.6g} … {float(high):.6g}"))
    widths = [max(len(row[c]) for row in rows) for c in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    one = next(iter(quantities.values()))
    factors = ", ".join(dict.fromkeys(f"{other.calibration_factor:.2f}" for other in quantities.values()))
    kind = f"posterior spread × {factors} of the calibration" if one.calibrated else "posterior spread, uncalibrated"
    return "\n".join([title, *lines, f"K = {one.n_draws} draws; error bars: {kind}"])

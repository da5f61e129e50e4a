"""Numbers only: spreads, scores, ranks, conformal quantiles and bootstraps; no atoms, no torch."""

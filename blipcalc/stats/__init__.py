"""Statistics of plain numbers: spreads, scores, ranks, conformal quantiles and bootstraps, without atoms or torch."""

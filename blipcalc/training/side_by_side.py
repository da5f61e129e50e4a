"""Training of a vectorised ensemble: every step evaluates all members at once on one batch.

Each member has its own run (optimiser, average, best weights, checkpoints, log), as if it were trained alone on
these batches; only the evaluation is shared, vmapped over the stacked weights.  This saves time where a network is too
small to keep the machine busy: ``tests/benchmarks/ensemble_step.py`` measures it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from blipcalc.core.contracts import NOISE_UNIT
from blipcalc.process import plain_state
from blipcalc.training.batches import Labelled
from blipcalc.training.logs import Totals
from blipcalc.training.steps import StepFunction, StepOutput, step_function
from blipcalc.training.trainer import Trainer


@plain_state()
def fit_side_by_side(trainers: Sequence[Trainer], *, compiled: bool) -> None:
    """Train all members to the end, each from the last whole checkpoint of its folder.

    trainers : runs of one architecture without weight noise, on the same frames in the same order
    compiled : ``torch.compile`` the shared step
    """
    for trainer in trainers:
        trainer.begin()
    step = step_function(trainers[0].model, stacked=True, compiled=compiled)
    bar = min(trainers, key=lambda trainer: trainer.epoch).bar()
    while running := [trainer for trainer in trainers if not trainer.is_done]:
        # after a kill between checkpoints some members are an epoch behind, and catch up first
        epoch = min(trainer.epoch for trainer in running)
        group = [trainer for trainer in running if trainer.epoch == epoch]
        began, totals = time.perf_counter(), [Totals() for _ in group]
        for batch in group[0].batches():
            for total, figures in zip(totals, _step_together(group, step, batch), strict=True):
                total.add(figures)
        share = (time.perf_counter() - began) / len(group)
        scores = [trainer.end_epoch(total.means(), share) for trainer, total in zip(group, totals, strict=True)]
        bar.update()
        bar.set_postfix({name: f"{sum(s[name] for s in scores) / len(scores):.4g}" for name in scores[0]})
    bar.close()
    for trainer in trainers:
        trainer.finish()


def _step_together(group: Sequence[Trainer], step: StepFunction, batch: Labelled) -> list[dict[str, float]]:
    """Do one step of every member on one batch; return the parts of their losses."""
    for trainer in group:
        trainer.before_step()
    own = [trainer.descent.start(trainer.generator) for trainer in group]
    weights = {name: torch.stack([part[name] for part in own]) for name in own[0]}
    # noise units of heads differ between members; all other buffers depend on the data alone
    units = [{n: b for n, b in t.model.named_buffers() if n.endswith(NOISE_UNIT)} for t in group]
    weights |= {name: torch.stack([own[name] for own in units]) for name in units[0]}
    out = step({}, weights, *batch.graph)
    parts = [trainer.loss(_member(out, k), batch) for k, trainer in enumerate(group)]
    # the sum has each member's own gradient, since no member depends on another
    torch.stack([loss for loss, _ in parts]).sum().backward()
    for trainer in group:
        trainer.apply_gradients()
    return [figures for _, figures in parts]


def _member(out: StepOutput, k: int) -> StepOutput:
    """Return the output of member k as a step of one draw."""
    noise = (None if value is None else value[k : k + 1] for value in (out.energy_var, out.forces_cov))
    return StepOutput(out.energy[k : k + 1], out.forces[k : k + 1], out.penalty, *noise)

"""Settings of a training run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from blipcalc.settings import Settings

ObjectiveName = Literal["mae", "mse", "gaussian_nll", "crps"]


class TrainConfig(Settings):
    """How to train; every field is documented where it is declared, and an unknown one is an error."""

    objective: ObjectiveName = Field(
        "mae",
        description="mae: as the BLIP paper; mse; gaussian_nll: one noise level per batch, at its best; "
        "crps: proper score over train_draws",
    )
    energy_weight: float = Field(0.1, ge=0, description="weight of the energy term (per structure)")
    forces_weight: float = Field(1.0, ge=0, description="weight of the force term (per component)")
    epochs: int = Field(200, ge=0, description="0 leaves the network, and the noise of a BLIP, as they start")
    batch_size: int = Field(10, ge=1, description="structures per step, over all processes")
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(1e-6, ge=0)
    inference_rate: float = Field(1.0, gt=0, description="factor on the learning rate of the BLIP inference network")
    warmup_steps: int = Field(500, ge=0, description="linear rise of the learning rate")
    clip_norm: float = Field(10.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="exponential moving average of the weights, per step")
    kl_weight: float = Field(
        0.003, ge=0, description="λ on the mean KL, relative to the normalised loss (λ = 0.1 of a loss in kcal/mol)"
    )
    kl_warmup: float = Field(0.1, ge=0, le=1, description="fraction of all steps over which λ rises linearly")
    train_draws: int = Field(1, ge=1, description="posterior draws per step")
    validation_draws: int = Field(8, ge=1, description="draws of the sampled predictive that selects the model")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better validation; 0: never")
    seed: int = Field(0, ge=0)
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    compile: bool = Field(False, description="torch.compile the training step (needs a C++ compiler, about a minute)")
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")

    @model_validator(mode="after")
    def _score_takes_draws(self) -> Self:
        if self.objective == "crps" and self.train_draws < 2:
            raise ValueError("objective='crps' compares draws with each other; give train_draws ≥ 2")
        return self

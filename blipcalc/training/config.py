"""Settings of a training; each field is documented at its declaration, and an unknown field is an error."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from blipcalc.core.contracts import Surface
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.registries import POSTERIORS
from blipcalc.settings import Settings
from blipcalc.units import EnergyUnit, LengthUnit

ObjectiveName = Literal["mae", "mse", "gaussian_nll", "crps", "nll_e", "nll_jef"]
#: least numbers of epochs and of steps of a noise fit by default; fewer steps leave the noise near its start
EPOCHS, STEPS = 20, 300
#: default number of networks of an ensemble or a mixture
MEMBERS = 2


class DataConfig(Settings):
    """Settings of the labels and of their split."""

    energy_key: str = "energy"
    forces_key: str = "forces"
    energy_unit: EnergyUnit = "eV"
    length_unit: LengthUnit = "Angstrom"
    validation: float = Field(default=0.05, gt=0, lt=1, description="fraction of each file; small files are pooled")
    calibration: float = Field(default=0.1, ge=0, lt=1, description="fraction of each file, held out from training")
    split_seed: int = Field(default=0, ge=0)


class ModelConfig(Settings):
    """Settings of the model."""

    architecture: str | None = Field(
        default=None, description="a name in blipcalc.registries.MODELS; None: painn, or that of ``start``"
    )
    sizes: dict[str, Any] = Field(
        default_factory=dict, description="settings of the architecture; its defaults otherwise"
    )
    posterior: str = Field(default="mixture", description="a name in blipcalc.registries.POSTERIORS")
    posterior_settings: dict[str, Any] = Field(
        default_factory=dict, description="settings of the posterior; its defaults otherwise"
    )
    members: int | None = Field(
        default=None, ge=2, description="networks of an ensemble or a mixture; None: 2, or those of ``start``"
    )
    vectorised: bool = Field(
        default=False,
        description="train the networks of an ensemble or a mixture side by side, in one vmapped step on the same batches, as "
        "long as there is no noise in them; faster where one network does not keep the machine busy",
    )
    surface: Surface | None = Field(
        default=None, description="surface that the model file recommends; None: centre where there is one, else mean"
    )

    @property
    def method(self) -> PosteriorMethod:
        """The posterior method; raises :class:`ConfigurationError` for an unknown name or setting."""
        return POSTERIORS[self.posterior](self.posterior_settings)

    @property
    def architecture_or_default(self) -> str:
        """Architecture of new networks."""
        return self.architecture or "painn"

    @property
    def n_members(self) -> int:
        """Number of networks to train."""
        return (self.members or MEMBERS) if self.method.is_several else 1


class TrainConfig(Settings):
    """Settings of the training of one network."""

    objective: ObjectiveName = Field(
        default="mae",
        description="mae: as the BLIP paper; mse; gaussian_nll: one noise level per batch, at its best; "
        "crps: proper score over train_draws; nll_e, nll_jef: likelihood with a variance of the energy, and a covariance of "
        "every force, from heads of the network",
    )
    beta: float = Field(
        default=0.0, ge=0, le=1, description="of nll_e and nll_jef: β-NLL, which keeps means learning; 0.5 is usual"
    )
    variance_warmup: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="of nll_e and nll_jef: fraction of all steps with mse, before variances are learnt",
    )
    energy_weight: float = Field(default=0.1, ge=0, description="weight of the energy term (per structure)")
    forces_weight: float = Field(default=1.0, ge=0, description="weight of the force term (per component)")
    epochs: int = Field(default=200, ge=0, description="0 leaves the network, and the noise of a BLIP, as they start")
    batch_size: int = Field(default=10, ge=1, description="structures per step, over all processes")
    learning_rate: float = Field(default=1e-3, gt=0)
    final_learning_rate: float = Field(default=1e-6, ge=0)
    inference_rate: float = Field(
        default=1.0, gt=0, description="factor on the learning rate of the BLIP inference network"
    )
    warmup_steps: int = Field(default=500, ge=0, description="linear rise of the learning rate")
    clip_norm: float = Field(default=10.0, gt=0, description="largest gradient norm; IVON has its own, clip_radius")
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="exponential moving average of the weights, per step"
    )
    kl_weight: float = Field(
        default=0.003,
        ge=0,
        description="λ on the mean KL, relative to the normalised loss (λ = 0.1 of a loss in kcal/mol)",
    )
    kl_warmup: float = Field(default=0.1, ge=0, le=1, description="fraction of all steps over which λ rises linearly")
    train_draws: int = Field(default=1, ge=1, description="posterior draws per step")
    validation_draws: int = Field(default=8, ge=1, description="draws of the sampled predictive that selects the model")
    patience: int = Field(
        default=0, ge=0, description="stop after so many epochs without a better validation; 0: never"
    )
    seed: int = Field(default=0, ge=0)
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    compile: bool = Field(
        default=False,
        description="torch.compile the training step (needs a C++ compiler, about a minute); compared with the plain one",
    )
    checkpoint_every: int = Field(default=1, ge=1, description="epochs between checkpoints")

    @model_validator(mode="after")
    def _score_takes_draws(self) -> Self:
        if self.objective == "crps" and self.train_draws < 2:
            raise ValueError("objective='crps' compares draws with each other; give train_draws ≥ 2")
        return self


class NoiseConfig(Settings):
    """Settings of the noise fit after training."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        description=f"over the frames; None: {EPOCHS}, and more where these are fewer than {STEPS} steps",
    )
    batch_size: int = Field(default=10, ge=1, description="structures per step")
    learning_rate: float = Field(default=3e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0, description="linear rise of the learning rate")
    clip_norm: float = Field(default=10.0, gt=0, description="largest gradient norm")
    draws: int = Field(default=8, ge=1, description="posterior draws per step, spread over the members")
    seed: int = Field(default=0, ge=0)
    dtype: str = Field(default="float32", pattern="^float(32|64)$")
    device: str = "cpu"

    def epochs_for(self, n_frames: int) -> int:
        """Return the number of epochs for a number of frames."""
        return self.epochs or max(EPOCHS, -(-STEPS // self.steps_per_epoch(n_frames)))

    def steps_per_epoch(self, n_frames: int) -> int:
        """Return the number of steps in one pass over a number of frames."""
        return max(1, n_frames // self.batch_size)

"""Plan of a training: checked settings of data, model and stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ase import Atoms

from blipcalc.data.labels import frame_hash
from blipcalc.data.silent_forces import informing_frames
from blipcalc.errors import ConfigurationError, DataError, TrainingDataReusedError, TrainingWarning, warn_user
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load
from blipcalc.models.build import model_name
from blipcalc.posteriors.method import with_noise
from blipcalc.posteriors.stored import HasNoise, n_networks
from blipcalc.training.config import DataConfig, ModelConfig, NoiseConfig, TrainConfig
from blipcalc.training.objectives import WITH_HEADS
from blipcalc.training.prepare import Prepared

#: default epochs of a BLIP without weight noise, the best number in our measurements
WARM_EPOCHS = 100


@dataclass(frozen=True)
class Plan:
    """Settings of data, model and all stages of a training.

    warm : stage without weight noise, or None; training : main stage, possibly of no epochs; noise : noise fit, or None
    start : model whose network, or whose networks one by one, are the starting point, or None
    """

    data: DataConfig
    model: ModelConfig
    training: TrainConfig
    warm: TrainConfig | None
    noise: NoiseConfig | None
    start: Model | None

    @classmethod
    def of(
        cls,
        data: DataConfig | Mapping[str, Any] | None,
        model: ModelConfig | Mapping[str, Any] | None,
        training: TrainConfig | Mapping[str, Any] | None,
        warm: TrainConfig | Mapping[str, Any] | None,
        noise: NoiseConfig | Mapping[str, Any] | None,
        start: str | Path | None,
    ) -> Plan:
        """Return the plan with its defaults; the arguments are those of :func:`~blipcalc.training.train.train`.

        raises : ConfigurationError for contradictions; ModelFileError for an unreadable starting model
        """
        model = ModelConfig.of(model)
        if model.method.has_noise and training is None:
            training = TrainConfig(epochs=0)
            warm = warm if isinstance(warm, TrainConfig) else {"epochs": WARM_EPOCHS, **(warm or {})}
            noise = NoiseConfig.of(noise)
        plan = cls(
            DataConfig.of(data),
            model,
            TrainConfig.of(training),
            None if warm is None else TrainConfig.of(warm),
            None if noise is None else NoiseConfig.of(noise),
            None if start is None else load(start),
        )
        plan._check_stages()
        # all settings of the posterior, including defaults, since a model file records them
        settings = {"posterior_settings": model.method.settings.model_dump(mode="json")}
        plan = replace(plan, model=plan._model_meant().model_copy(update=settings))
        plan._check_heads()
        return plan

    def _check_stages(self) -> None:
        """Raise :class:`ConfigurationError` for stages that cannot make the model."""
        method = self.model.method
        if self.noise and not method.has_noise:
            raise ConfigurationError(f"posterior={self.model.posterior!r} has no noise to fit; use {with_noise()}")
        if method.is_online and not self.training.epochs:
            raise ConfigurationError(
                f"posterior={self.model.posterior!r} is made while weights are trained; give epochs of the stage 'training' "
                "(--epochs)"
            )
        method.check(self.training.epochs, self.training.patience)
        without_noise = (self.warm, None if method.has_noise else self.training)
        plain = [stage for stage in without_noise if stage is not None and stage.epochs]
        if self.model.vectorised and (self.model.n_members == 1 or not plain):
            raise ConfigurationError(
                f"model.vectorised: posterior={self.model.posterior!r} has no networks to train without noise, side by side"
            )
        if any(stage.train_draws > 1 for stage in plain):
            raise ConfigurationError("train_draws > 1 in a stage without noise, where one draw is like another")
        if self.training.epochs or (self.warm is not None and self.warm.epochs):
            return
        if self.start is None:
            raise ConfigurationError("no epochs, so the weights would stay random; give epochs, warm epochs, or start")
        if method.is_several and (not method.has_noise or self._start_members() == 1):
            raise ConfigurationError(
                f"{self.model.n_members} members that are not trained stay what they started from; take "
                "posterior='blip', or epochs > 0"
            )

    def _objectives(self) -> list[str]:
        """Return the objectives of the stages that train weights."""
        return [stage.objective for stage in (self.warm, self.training) if stage is not None and stage.epochs]

    def _check_heads(self) -> None:
        """Refuse heads that no stage trains: they would report their initial variances."""
        objectives = self._objectives()
        for name in objectives:
            if name in WITH_HEADS and WITH_HEADS[name] != self._heads():
                raise ConfigurationError(
                    f"objective={name!r} takes a network with heads={WITH_HEADS[name]!r}, this one has {self._heads()!r}"
                )
        if self._heads() != "none" and objectives and not set(objectives) & set(WITH_HEADS):
            raise ConfigurationError(
                f"the network has heads={self._heads()!r}, which objective={objectives[-1]!r} does not train; take one of "
                f"{', '.join(WITH_HEADS)}"
            )

    def _start_members(self) -> int:
        """Return the number of networks of the starting point."""
        return 1 if self.start is None else n_networks(self.start.posterior)

    def _heads(self) -> str:
        return self.model.sizes.get("heads", {}).get("predict", "none")

    def _model_meant(self) -> ModelConfig:
        """Return the settings of the model, with the architecture of the starting point where there is one."""
        model, start = self.model, self.start
        if start is None:
            # heads follow from the objectives
            heads = [WITH_HEADS[name] for name in self._objectives() if name in WITH_HEADS]
            sizes = dict(model.sizes)
            if heads:
                sizes["heads"] = {"predict": "joint" if "joint" in heads else "energy", **sizes.get("heads", {})}
            return model.model_copy(update={"architecture": model.architecture_or_default, "sizes": sizes})
        if start.posterior.tensors() or isinstance(start.posterior, HasNoise):
            raise ConfigurationError(
                f"start needs a deterministic model (posterior 'point') or an ensemble, got {start.posterior.name!r}"
            )
        members = self._start_members()
        asked = model.members or max(members, model.n_members)
        if members > 1 and (model.n_members == 1 or asked != members):
            raise ConfigurationError(
                f"the start is an ensemble of {members}, each of which starts one network; take posterior='ensemble' or "
                f"'mixture' of {members} members, got {model.posterior!r} of {model.n_members}"
            )
        architecture, sizes = model_name(start.network), start.network.config.model_dump(mode="json")
        own: dict[str, object] = {"architecture": architecture, "sizes": sizes}
        given = {"architecture": model.architecture or architecture, "sizes": {**sizes, **model.sizes}}
        if given != own:
            raise ConfigurationError(
                f"the starting model is {own}, but {given} was asked for; leave them out, or train anew"
            )
        return model.model_copy(update=own | ({"members": members} if members > 1 else {}))

    @property
    def has_error_bars(self) -> bool:
        """Whether the model gives variances of forces, which can be calibrated."""
        return self.model.method.is_random or self._heads() == "joint"

    def _fits(self, prepared: Prepared) -> dict[str, Sequence[Atoms]]:
        """Return {fit after training: frames that it reads}."""
        uses: dict[str, Sequence[Atoms]] = {"fit the noise": prepared.split.validation} if self.noise else {}
        parts = {"train": prepared.split.train, "validation": prepared.split.validation}
        return uses | {f"make the posterior ({part} frames)": parts[part] for part in self.model.method.reads}

    def refuse_seen(self, prepared: Prepared) -> None:
        """Refuse frames for measuring errors on which the starting network was trained.

        With the same split the validation frames selected the starting weights but did not train them; a starting network that
        itself started from another may have been trained on them, which its file does not tell.
        raises : TrainingDataReusedError
        """
        if self.start is None:
            return
        seen, before = set(self.start.frames.tolist()), self.start.training.get("data", {})
        before_is_first = self.start.training.get("start") is None
        split = {key: getattr(self.data, key) for key in ("validation", "calibration", "split_seed")}
        same = before_is_first and {**split, "files": prepared.files} == {
            key: before.get(key) for key in (*split, "files")
        }
        uses = {"calibrate": prepared.split.calibration}
        if not same:
            uses |= {use: frames for use, frames in self._fits(prepared).items() if frames is prepared.split.validation}
        for use, frames in uses.items():
            known = sum(frame_hash(atoms) in seen for atoms in frames)
            if known:
                raise TrainingDataReusedError(
                    f"{known} of {len(frames)} frames that would {use} are among those that the starting model was trained "
                    "on; give the files, fractions and split seed of its own training, or other frames"
                )

    def refuse_silent(self, prepared: Prepared) -> None:
        """Refuse, before training, frames whose forces all vanish where a later stage needs them.

        raises : DataError; warns : TrainingWarning where all training forces vanish, so that only energies are learned
        """
        for use, frames in self._fits(prepared).items():
            if not any(informing_frames(frames).values()):
                raise DataError(
                    f"all forces of the {len(frames)} frames that would {use} vanish, as those of perfect crystals and single "
                    "atoms do: they say nothing of errors; give frames whose atoms are displaced"
                )
        if not any(informing_frames(prepared.split.train).values()):
            warn_user(
                f"all forces of the {len(prepared.split.train)} training frames vanish: only energies are learned, and nothing "
                "of how they change when atoms are displaced",
                TrainingWarning,
            )

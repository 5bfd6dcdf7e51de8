"""Diffusion models: the denoising loss at a few timesteps, the same ones for every example.

An example's loss is the mean over K draws (t_k, ε_k) of ‖prediction - target‖², as the training's
is over many more. The draws come of a seed alone and are shared by all examples, training and
queries alike. So no score depends on a batch, and examples differ by what they are and not by what
was drawn for them, as where each has a timestep of its own (docs/reference/diffusion.md).
"""

from typing import Any

import torch
from torch import Tensor, nn

from sourcetrace.errors import InputError
from sourcetrace.tasks.loss_task import ManyPartsTask, Parts
from sourcetrace.tasks.losses import Loss, SquaredError
from sourcetrace.tasks.noise_schedule import NoiseSchedule


class DiffusionTask(ManyPartsTask):
    """A denoiser `model(noisy, timesteps)`, measured by its training loss: lower is better.

    Outputs are the predictions of all draws, [B, K, …], for examples [B, …]. The model is called K
    times, so that the examples come first in every layer.

    Attributes:
        schedule: Noise of the timesteps, and what the model predicts.
        draws: K, the timesteps and noises of an example.
        seed: Of the draws.
        loss: Of a predicted number; squared error by default, as `nn.MSELoss`.
        min_snr_gamma: γ of the min-SNR weights that the training had; None for none.
    """

    measurement_higher_is_better = False
    schedule: NoiseSchedule
    draws: int = 32
    seed: int = 0
    loss: Loss = SquaredError()
    min_snr_gamma: float | None = None

    def clean_of(self, batch: Any) -> Tensor:
        """Return the examples without noise, [B, …]; the batch itself, or the first in it."""
        clean: Tensor = batch if isinstance(batch, Tensor) else batch[0]
        return clean

    def predict(self, model: nn.Module, noisy: Tensor, timesteps: Tensor, batch: Any) -> Tensor:
        """Return one draw's predictions, [B, …]; override it to pass a condition on.

        Args:
            model: The model.
            noisy: Its input, [B, …].
            timesteps: int64, [B].
            batch: What `collate` made, with the condition in it.
        """
        found = model(noisy, timesteps)
        # diffusers' models return a record.
        predicted: Tensor = found if isinstance(found, Tensor) else found.sample
        return predicted

    def draws_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return timesteps, int64 [B, K], and noise, [B, K, …]: the same in every row.

        Timestep k is uniform in the k-th of K equal parts of the schedule. Override it where the
        training drew them otherwise.
        """
        clean = self.clean_of(batch)
        generator = torch.Generator().manual_seed(self.seed)
        # In float64 on the CPU, so that every device and precision has the same.
        places = torch.rand(self.draws, generator=generator, dtype=torch.float64)
        noise = torch.randn(
            self.draws, *clean.shape[1:], generator=generator, dtype=torch.float64
        ).to(clean)
        share = len(self.schedule.alphas_cumprod) / self.draws
        timesteps = ((torch.arange(self.draws) + places) * share).long().to(clean.device)
        return timesteps.expand(len(clean), -1), noise.expand(len(clean), *noise.shape)

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the predictions, [B, K, …]."""
        clean = self.clean_of(batch)
        if not clean.is_floating_point():
            raise InputError(
                f"The examples are {clean.dtype}; expected floats, scaled as in the training, such "
                "as value / 127.5 - 1. Scale them in the data set, or in clean_of()."
            )
        timesteps, noise = self.draws_of(batch)
        found = [
            self.predict(model, self.schedule.noisy(clean, noise[:, k], own), own, batch)
            for k, own in enumerate(timesteps.unbind(1))
        ]
        return torch.stack(found, 1)

    def _counted(self, batch: Any) -> Tensor:
        return torch.ones_like(self.draws_of(batch)[1], dtype=torch.bool)

    def _with_targets(self, batch: Any) -> Any:
        return batch  # which timesteps an example has is in it

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        clean = self.clean_of(batch)
        timesteps, noise = self.draws_of(batch)
        wanted = self.schedule.target(clean.unsqueeze(1), noise, timesteps).to(outputs)
        if outputs.shape != wanted.shape:
            raise InputError(
                f"The predictions of a draw have shape {list(outputs.shape[2:])} for examples of "
                f"shape {list(clean.shape[1:])}; expected the same. Where the model predicts a "
                "variance as well, let predict() return the rest alone."
            )
        weights = self._weights(torch.ones_like(outputs))
        if self.min_snr_gamma is not None:
            by_draw = self.schedule.min_snr_weights(self.min_snr_gamma)[timesteps.cpu()]
            trailing = (1 for _ in outputs.shape[2:])
            weights = weights * by_draw.reshape(*timesteps.shape, *trailing).to(outputs)
        return Parts(outputs, wanted, weights)

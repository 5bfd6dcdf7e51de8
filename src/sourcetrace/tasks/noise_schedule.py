"""How much of an example and how much noise a diffusion model is given at each timestep.

With ᾱ_t = Π_{s≤t} (1 - β_s) the model sees √ᾱ_t x + √(1 - ᾱ_t) ε, Ho et al. 2020, arXiv 2006.11239.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from sourcetrace.errors import InputError

_Prediction = Literal["epsilon", "sample", "v_prediction"]
_LARGEST_BETA = 0.999
_MOST_STEPS = 1_000_000


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ of every timestep, and what the model predicts.

    Attributes:
        alphas_cumprod: ᾱ, 0 to 1, [T], float64.
        prediction: The noise ε; the example x, "sample"; or √ᾱ ε - √(1 - ᾱ) x, "v_prediction".
    """

    alphas_cumprod: Tensor
    prediction: _Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in get_args(_Prediction):
            raise InputError(
                f"The noise schedule's prediction is {self.prediction!r}; expected one of "
                f"{', '.join(get_args(_Prediction))}."
            )
        alphas = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64, device="cpu")
        if alphas.ndim != 1 or not len(alphas) or not bool(((alphas >= 0) & (alphas <= 1)).all()):
            raise InputError(
                "The noise schedule's alphas_cumprod must be one number from 0 to 1 a timestep, "
                f"[T]; got shape {list(alphas.shape)}. They are the running products of 1 - beta."
            )
        object.__setattr__(self, "alphas_cumprod", alphas)

    @classmethod
    def linear(
        cls,
        steps: int = 1000,
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        power: float = 1.0,
        prediction: _Prediction = "epsilon",
    ) -> Self:
        """Return β^power on a line; a power of 0.5 is diffusers' "scaled_linear"."""
        ends = beta_start**power, beta_end**power
        betas = torch.linspace(*ends, steps, dtype=torch.float64) ** (1 / power)
        return cls((1 - betas).cumprod(0), prediction)

    @classmethod
    def cosine(cls, steps: int = 1000, *, prediction: _Prediction = "epsilon") -> Self:
        """Return ᾱ as a squared cosine, each β at most 0.999 (Nichol & Dhariwal 2021)."""
        places = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = ((places + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = (1 - curve[1:] / curve[:-1]).clamp(max=_LARGEST_BETA)
        return cls((1 - betas).cumprod(0), prediction)

    @classmethod
    def of_config(cls, path: str | Path) -> Self:
        """Read diffusers' `scheduler_config.json`, or the folder that holds it.

        Raises:
            InputError: If it is not there, or of a schedule that is not known.
        """
        path = Path(path)
        path = path / "scheduler_config.json" if path.is_dir() else path
        try:
            config: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls._of_mapping(config)
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{path} is no scheduler_config.json of a known noise schedule ({error}). Expected "
                "beta_schedule linear, scaled_linear or squaredcos_cap_v2, or trained_betas; make "
                "the schedule of alphas_cumprod otherwise: NoiseSchedule(alphas_cumprod)."
            ) from error

    @classmethod
    def _of_mapping(cls, config: Mapping[str, Any]) -> Self:
        if config.get("rescale_betas_zero_snr"):
            raise ValueError("rescale_betas_zero_snr is true")
        prediction = config.get("prediction_type", "epsilon")
        if config.get("trained_betas"):
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
            return cls((1 - betas).cumprod(0), prediction)
        steps, name = config.get("num_train_timesteps", 1000), config.get("beta_schedule")
        if not 0 < steps <= _MOST_STEPS:
            raise ValueError(f"num_train_timesteps is {steps}")
        if name == "squaredcos_cap_v2":
            return cls.cosine(steps, prediction=prediction)
        if name not in ("linear", "scaled_linear"):
            raise ValueError(f"beta_schedule is {name!r}")
        return cls.linear(
            steps,
            beta_start=config.get("beta_start", 1e-4),
            beta_end=config.get("beta_end", 0.02),
            power=1.0 if name == "linear" else 0.5,
            prediction=prediction,
        )

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the model is given of examples, [B, …], noise [B, …], timesteps [B].

        Timesteps may have more dimensions, such as draws; they are the first of the others then.
        """
        signal, rest = self._shares(timesteps, clean)
        return signal * clean + rest * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what it should predict, laid out as in `noisy`."""
        if self.prediction == "sample":
            return clean.expand_as(noise)
        if self.prediction == "epsilon":
            return noise
        signal, rest = self._shares(timesteps, clean)
        return signal * noise - rest * clean

    def min_snr_weights(self, gamma: float) -> Tensor:
        """Return the weight of each timestep's loss, [T]: min(SNR, γ) of a loss of the example.

        Source: Hang et al. 2023, arXiv 2303.09556; SNR = ᾱ / (1 - ᾱ).
        """
        signal = self.alphas_cumprod
        weights = torch.minimum(signal, gamma * (1 - signal))
        if self.prediction == "v_prediction":
            return weights
        # Where there is no signal, or no noise, their limits.
        if self.prediction == "epsilon":
            return torch.where(signal > 0, weights / signal, 1.0)
        return torch.where(signal < 1, weights / (1 - signal), gamma)

    def _shares(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        share = self.alphas_cumprod[timesteps.cpu()]
        share = share.reshape(*share.shape, *(1 for _ in like.shape[share.ndim :]))
        return share.sqrt().to(like), (1 - share).sqrt().to(like)

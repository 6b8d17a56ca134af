"""Latent diffusion: an autoencoder and a U-Net that is fed a zero vector as its context."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fvit_ray.denoisers import compvis
from fvit_ray.denoisers import weights as read
from fvit_ray.denoisers.base import DenoiserError, Prediction, read_output

EXPECTED = (
    "a diffusers folder with vae/ (AutoencoderKL or VQModel), unet/ (UNet2DConditionModel) and "
    "scheduler/, or CompVis' cin256-v2 .ckpt"
)
SAMPLE = Path(str(resources.files("fvit_ray") / "sample" / "weights" / "ldm"))
SAMPLE_VAE: dict[str, Any] = {
    "latent_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (24, 48),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
    "sample_size": 32,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
SAMPLE_UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (48, 72),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
# fed by nobody here: text, time ids, class labels, image embeddings
_CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim")


class LatentDenoiser:
    """An autoencoder around a U-Net with cross-attention to one zero vector.

    vae:  a diffusers AutoencoderKL (the mode of its posterior) or VQModel (decode quantises)
    unet: a diffusers UNet2DConditionModel
    """

    latent = True

    def __init__(
        self,
        vae: Any,
        unet: Any,
        alphas_cumprod: Tensor,
        prediction_type: str,
        context: Tensor,
    ) -> None:
        self.vae, self.unet = vae, unet
        self.alphas_cumprod = alphas_cumprod
        self.prediction_type = prediction_type
        self.context = context  # (1, tokens, width)
        self.scale = float(vae.config.scaling_factor)
        self.dtype = next(unet.parameters()).dtype
        size = unet.config.sample_size
        shrink = 2 ** (len(vae.config.block_out_channels) - 1)
        self.resolution: int | None = None if size is None else int(size) * shrink

    def encode(self, x: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> scaled latents (B, C, h, w); no noise is drawn."""
        encoded = self.vae.encode((2 * x - 1).to(self.dtype))
        z: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return self.scale * z.to(x.dtype)

    def predict(self, z_t: Tensor, t: int) -> Prediction:
        """z_t (B, C, h, w) at the 0-based step t; see `base.Denoiser`."""
        steps = torch.full((len(z_t),), t, device=z_t.device)
        context = self.context.expand(len(z_t), -1, -1)
        output = self.unet(z_t.to(self.dtype), steps, context, return_dict=False)[0]
        return read_output(output.to(z_t.dtype), z_t, t, self.alphas_cumprod, self.prediction_type)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents -> pixels in [0, 1], not clamped."""
        latents = z / self.scale
        if hasattr(self.vae, "quantize"):
            latents = nearest_codes(latents, self.vae.quantize.embedding.weight)
            decoded = self.vae.decode(latents.to(self.dtype), force_not_quantize=True)
        else:
            decoded = self.vae.decode(latents.to(self.dtype))
        image: Tensor = decoded.sample.to(z.dtype)
        return (image + 1) / 2


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """Replace every latent vector of z (B, C, h, w) by its nearest code of (K, C).

    The gradient passes straight through. One image at a time: all distances at once would need
    B h w K numbers, and an image would feel its neighbours in the last bits.
    """
    codes = codebook.to(torch.promote_types(z.dtype, torch.float32))
    half_norm = codes.square().sum(1) / 2
    chosen = []
    for image in z.detach().to(codes.dtype):
        rows = image.flatten(1).T  # (h w, C)
        index = (rows @ codes.T - half_norm).argmax(1)
        chosen.append(codes[index].T.reshape(image.shape))
    return z + (torch.stack(chosen).to(z.dtype) - z).detach()


def build(
    weights: str | None,
    *,
    random_weights: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    name: str = "ldm",
) -> LatentDenoiser:
    """Read a folder or a checkpoint (`EXPECTED`); raises `DenoiserError`, one line.

    random_weights: the folder's architecture; cin256-v2's if `weights` is None or a checkpoint
    """
    if weights is not None and Path(weights).expanduser().is_file() and not random_weights:
        vae, unet, alphas_cumprod = compvis.read(Path(weights).expanduser())
        return _assemble(vae, unet, alphas_cumprod, "epsilon", device, dtype)
    if random_weights and (weights is None or Path(weights).expanduser().is_file()):
        vae = read.Network("VQModel", compvis.vae_args(), f"{name}/vae")
        unet = read.Network("UNet2DConditionModel", compvis.unet_args(), f"{name}/unet")
        return _assemble(vae, unet, compvis.SCHEDULE, "epsilon", device, dtype)
    folder = read.folder_of(weights, name, EXPECTED)
    options = {"random_weights": random_weights}
    vae = read.from_folder(
        folder / "vae", "AutoencoderKL", "VQModel", name=f"{name}/vae", **options
    )
    unet = read.from_folder(folder / "unet", "UNet2DConditionModel", name=f"{name}/unet", **options)
    _check(unet.config, vae.config, folder)
    return _assemble(vae, unet, *read.read_schedule(folder), device, dtype)


def _assemble(
    vae: read.Network,
    unet: read.Network,
    alphas_cumprod: Tensor,
    prediction_type: str,
    device: torch.device | str,
    dtype: torch.dtype,
) -> LatentDenoiser:
    width = unet.config["cross_attention_dim"]
    return LatentDenoiser(
        vae.build(device, dtype),
        unet.build(device, dtype),
        alphas_cumprod,
        prediction_type,
        context=torch.zeros(1, 1, width, device=device, dtype=dtype),
    )


def _check(unet: Mapping[str, Any], vae: Mapping[str, Any], folder: Path) -> None:
    """Raise where this library cannot feed the networks or they do not fit each other."""
    needs = [key for key in _CONDITIONS if unet.get(key) is not None]
    if needs or not isinstance(unet.get("cross_attention_dim"), int):
        what = needs[0] if needs else "no single cross_attention_dim"
        raise DenoiserError(f"{folder / 'unet'}: has {what}, which ldm does not feed")
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        raise DenoiserError(
            f"{folder}: unet/ takes {unet.get('in_channels', 4)} channels, "
            f"vae/ gives {vae.get('latent_channels', 4)}"
        )


def build_sample(
    weights: str | None = None,
    *,
    random_weights: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LatentDenoiser:
    """The packaged latent diffusion of the embedded sample, or the folder `weights`."""
    if weights is None and random_weights:
        vae = read.Network("AutoencoderKL", SAMPLE_VAE, "sample_ldm/vae")
        unet = read.Network("UNet2DConditionModel", SAMPLE_UNET, "sample_ldm/unet")
        return _assemble(vae, unet, compvis.SCHEDULE, "epsilon", device, dtype)
    return build(
        weights or str(SAMPLE),
        random_weights=random_weights,
        device=device,
        dtype=dtype,
        name="sample_ldm",
    )

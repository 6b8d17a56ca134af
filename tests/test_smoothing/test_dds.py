import math

import pytest
import torch
import torch.nn.functional as F

from fvit_ray.denoisers.identity import Identity
from fvit_ray.smoothing.dds import dds, p_sample_chain, resize
from fvit_ray.smoothing.schedule import SCHEDULES, resolve

SIGMA = {"carlini": 0.25, "diffpure": None}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_perfect_denoiser_returns_the_image(schedule, oracle, images, noise):
    x, draw = images(4), noise()
    denoiser = oracle(x)
    step = resolve(schedule, SIGMA.get(schedule, 16 / 255), denoiser.alphas_cumprod)
    expected = x
    if schedule in ("paper", "paper_unclipped"):
        expected = (x + 8 / 255 * draw("post", x.shape)).clamp(0, 1)
    torch.testing.assert_close(dds(denoiser, x, draw, step=step), expected, rtol=0, atol=1e-10)


def test_exact_gaussian_denoiser_has_the_posterior_error(gaussian, noise):
    """E |x0 - x|^2 = s^2 (1 - abar) / (abar s^2 + 1 - abar), if clamping plays no part."""
    mean, std = 0.1, 0.15
    denoiser, draw = gaussian(mean, std), noise()
    x = (mean + std * draw("data", (4, 3, 64, 64)) + 1) / 2
    step = resolve("carlini", 0.1, denoiser.alphas_cumprod)
    abar = float(denoiser.alphas_cumprod[step.t])
    expected = std**2 * (1 - abar) / (abar * std**2 + 1 - abar)
    error = float((2 * (dds(denoiser, x, draw, step=step) - x)).square().mean())
    assert error == pytest.approx(expected, rel=0.03)


def test_chain_samples_the_data_of_an_exact_gaussian_denoiser(gaussian, noise):
    """Ancestral sampling turns x_t of the data into fresh data; far from a narrow prior it shows
    both in the mean and in the spread."""
    mean, std = 0.1, 0.15
    denoiser, draw = gaussian(mean, std), noise()
    x = torch.full((1, 3, 48, 48), (mean + 1) / 2, dtype=torch.float64)
    step = resolve("diffpure", None, denoiser.alphas_cumprod)
    out = 2 * dds(denoiser, x, draw, step=step) - 1
    abar = float(denoiser.alphas_cumprod[149])
    gain = std**2 * math.sqrt(abar) / (abar * std**2 + 1 - abar)
    posterior = std**2 * (1 - abar) / (abar * std**2 + 1 - abar)
    spread = math.sqrt(posterior + gain**2 * (1 - abar))  # of p(x0 | x_t), over the noise of x_t
    assert float(out.mean()) == pytest.approx(mean, abs=0.01)
    assert float(out.std()) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("learned", [False, True])
def test_chain_follows_diffusers_scheduler(learned, tiny):
    """Another implementation of ancestral sampling, driven with the same noise."""
    from diffusers import DDPMScheduler

    denoiser, t = tiny(learned=learned), 12
    scheduler = DDPMScheduler(
        1000, variance_type="learned_range" if learned else "fixed_small", clip_sample=True
    )
    scheduler.alphas_cumprod = denoiser.alphas_cumprod  # float64, and so all that it derives
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noises = {}
    expected = z
    for i in range(t, -1, -1):
        hidden = torch.tanh(F.conv2d(expected, denoiser.into, padding=1) + i / 1000)
        output = F.conv2d(hidden, denoiser.out, padding=1)
        g = torch.Generator().manual_seed(i)
        noises[f"step{i}"] = torch.randn(z.shape, generator=g, dtype=z.dtype)
        again = torch.Generator().manual_seed(i)
        expected = scheduler.step(output, i, expected, generator=again).prev_sample
    out = p_sample_chain(denoiser, z, t, lambda name, shape: noises[name])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def test_learned_variance_changes_the_chain_only(tiny, images, noise):
    plain, learned = tiny(), tiny(learned=True)
    learned.out[:3] = plain.out
    x, draw = images(2), noise()
    for schedule, same in (("carlini", True), ("chain", False)):
        step = resolve(schedule, 0.1, plain.alphas_cumprod)
        a, b = (dds(d, x, draw, step=step) for d in (plain, learned))
        # three more outputs are another kernel, with other last bits
        assert torch.allclose(a, b, rtol=0, atol=1e-12) == same
        assert same or (a - b).abs().max() > 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_identity_is_noise_alone(schedule, images, noise):
    x, draw, denoiser = images(3), noise(), Identity()
    step = resolve(schedule, SIGMA.get(schedule, 16 / 255), denoiser.alphas_cumprod)
    expected = x + step.noise_std / step.scale / 2 * draw("", x.shape)
    expected = expected.clamp(0, 1) + step.post_std * draw("post", x.shape)
    torch.testing.assert_close(dds(denoiser, x, draw, step=step), expected.clamp(0, 1))


def test_denoise_off_runs_no_network(tiny, images, noise):
    x, draw, denoiser = images(3), noise(), tiny()
    step = resolve("carlini", 0.25, denoiser.alphas_cumprod)
    out = dds(denoiser, x, draw, step=step, denoise=False)
    assert ("denoiser", 3) not in denoiser.calls
    torch.testing.assert_close(out, dds(Identity(), x, draw, step=step))


def test_smooth_off_adds_no_noise(oracle, tiny, images):
    def no_noise(name, shape):
        raise AssertionError(name)

    x, denoiser = images(3), tiny()
    for schedule in ("paper", "carlini"):
        step = resolve(schedule, 0.1, denoiser.alphas_cumprod)
        out = dds(denoiser, x, no_noise, step=step, smooth=False)
        x0 = denoiser.predict(step.scale * (2 * x - 1), step.t).x0
        torch.testing.assert_close(out, (x0.clamp(-1, 1) + 1) / 2)
        off = dds(denoiser, x, no_noise, step=step, smooth=False, denoise=False)
        torch.testing.assert_close(off, x)


def test_t_none_skips_noise_and_denoiser_but_not_the_post_noise(tiny, images, noise):
    x, draw, denoiser = images(3), noise(), tiny(latent=True, resolution=16)
    step = resolve("paper_unclipped", 2 / 255, denoiser.alphas_cumprod)
    out = dds(denoiser, x, draw, step=step)
    torch.testing.assert_close(out, (x + 1 / 255 * draw("post", x.shape)).clamp(0, 1))
    assert denoiser.calls == []


def test_resizes_to_the_denoiser_and_back(oracle, images, noise):
    x, draw = images(2, side=12), noise()
    bigger = F.interpolate(x, size=(16, 16), mode="bilinear", align_corners=False)
    step = resolve("carlini", 0.25, oracle(x).alphas_cumprod)
    out = dds(oracle(bigger, resolution=16), x, draw, step=step)
    back = F.interpolate(bigger, size=(12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, back)
    assert resize(x, 12) is x


def test_latent_noise_enters_behind_the_encoder(tiny, images, noise):
    x, draw, denoiser = images(2), noise(), tiny(latent=True)
    step = resolve("carlini", 0.25, denoiser.alphas_cumprod)
    z = denoiser.encode(x)
    x0 = denoiser.predict(step.scale * z + step.noise_std * draw("", z.shape), step.t).x0
    expected = denoiser.decode(x0).clamp(0, 1)
    torch.testing.assert_close(dds(denoiser, x, draw, step=step), expected)
    torch.testing.assert_close(dds(denoiser, x, draw, step=step, z=z), expected)


@pytest.mark.parametrize("schedule", ["carlini", "paper_no_post_noise"])
def test_pixel_noise_enters_before_the_encoder(schedule, tiny, images, noise):
    x, draw, denoiser = images(2), noise(), tiny(latent=True)
    step = resolve(schedule, 0.1, denoiser.alphas_cumprod)
    noisy = (2 * x - 1 + 2 * step.sigma_pixel * draw("", x.shape)).clamp(-1, 1)
    abar = float(denoiser.alphas_cumprod[step.t])
    x0 = denoiser.predict(math.sqrt(abar) * denoiser.encode((noisy + 1) / 2), step.t).x0
    expected = denoiser.decode(x0).clamp(0, 1)
    torch.testing.assert_close(dds(denoiser, x, draw, step=step, noise_space="pixel"), expected)


@pytest.mark.parametrize("schedule", ["paper", "carlini", "chain"])
@pytest.mark.parametrize("latent", [False, True])
def test_gradient_is_that_of_finite_differences(schedule, latent, tiny, images, noise):
    x, draw = images(1, side=4), noise()
    denoiser = tiny(latent=latent, learned=schedule == "chain", resolution=6)
    step = resolve(schedule, 5 / 255, denoiser.alphas_cumprod)
    weight = draw("weight", x.shape)

    def loss(x):
        return (weight * dds(denoiser, x, draw, step=step)).sum()

    assert torch.autograd.gradcheck(loss, x.requires_grad_())


def test_vmap_goes_through(tiny, images, noise):
    x, denoiser = images(3), tiny()
    n = noise()("", x.shape)
    step = resolve("carlini", 0.25, denoiser.alphas_cumprod)

    def one(x, n):
        return dds(denoiser, x[None], lambda name, shape: n[None], step=step)[0]

    expected = dds(denoiser, x, lambda name, shape: n, step=step)
    torch.testing.assert_close(torch.func.vmap(one)(x, n), expected)

"""`lucent.optvis.param`: how an image is made of what an optimiser moves.

Everything here gives `(params, image_f)`: a list of tensors, and a function that makes images [B, C, H, W] of them.
"""

from fvfast.compat.lucent.optvis.param.color import (
    color_correlation_normalized,
    color_correlation_svd_sqrt,
    color_mean,
    max_norm_svd_sqrt,
    to_valid_rgb,
)
from fvfast.compat.lucent.optvis.param.cppn import CompositeActivation, cppn
from fvfast.compat.lucent.optvis.param.gan import upconvGAN
from fvfast.compat.lucent.optvis.param.images import image
from fvfast.compat.lucent.optvis.param.lowres import lowres_tensor
from fvfast.compat.lucent.optvis.param.spatial import fft_image, pixel_image, rfft2d_freqs

__all__ = [
    "CompositeActivation",
    "color_correlation_normalized",
    "color_correlation_svd_sqrt",
    "color_mean",
    "cppn",
    "fft_image",
    "image",
    "lowres_tensor",
    "max_norm_svd_sqrt",
    "pixel_image",
    "rfft2d_freqs",
    "to_valid_rgb",
    "upconvGAN",
]

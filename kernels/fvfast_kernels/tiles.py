"""Device functions of the kernels: exact phases, half-precision products, scaling, the Adam update.

Each has its counterpart in `geometry.py`, `reference.py` or `resample.py` under the same name.
"""

import triton
import triton.language as tl

# Operands are scaled by a power of two until their largest entry lies in [2^12, 2^13): a factor 8 below the
# overflow of float16, and its subnormals (below 2^-14) then begin 2^-26 below the largest.
TARGET_EXPONENT = tl.constexpr(12)
BIAS = tl.constexpr(127)
NYQUIST = tl.constexpr(0.5 + 2.0**-20)  # as in geometry.py


# --- Phases.


@triton.jit
def cis(turns):
    """cos and sin of an angle in turns, to 1e-7 absolute: octant by octant, by minimax polynomials."""
    turns = turns - tl.floor(turns + 0.5)
    quarter = tl.floor(4.0 * turns + 0.5)
    rest = turns - 0.25 * quarter  # [-1/8, 1/8]
    square = rest * rest
    sin = -75.39356282798417 * square + 81.59235356470687
    sin = sin * square - 41.34166145507803
    sin = (sin * square + 6.283185286833821) * rest
    cos = 59.220407185125175 * square - 85.44285212432729
    cos = cos * square + 64.93931620856438
    cos = cos * square - 19.739208650358755
    cos = cos * square + 1.0
    number = quarter.to(tl.int32)
    odd = (number & 1) != 0
    even_cos, even_sin = tl.where(odd, sin, cos), tl.where(odd, cos, sin)
    return (
        tl.where(((number + 1) & 2) != 0, -even_cos, even_cos),
        tl.where((number & 2) != 0, -even_sin, even_sin),
    )


@triton.jit
def split_product(scale, distance):
    """scale * distance as (integer, fraction), for multiples of 1/2."""
    leading = tl.floor(scale * 1024.0 + 0.5) * (1.0 / 1024.0)
    product = leading * distance
    whole = tl.floor(product)
    return whole, (product - whole) + (scale - leading) * distance


@triton.jit
def turns(frequency, whole, fraction, PERIOD: tl.constexpr):
    """frequency * (whole + fraction) / PERIOD modulo one turn; integer products stay below 2^24, exact."""
    product = frequency * whole
    cycles = product - tl.floor(product * (1.0 / PERIOD)) * PERIOD
    return (cycles + frequency * fraction) * (1.0 / PERIOD)


@triton.jit
def wrapped(whole, PERIOD: tl.constexpr):
    """A whole number modulo a period, so that its product with a frequency stays exact."""
    return whole - tl.floor(whole * (1.0 / PERIOD)) * PERIOD


@triton.jit
def half_offset(index, SIZE: tl.constexpr):
    """Distance of a pixel of the upper half from the centre of SIZE pixels."""
    return index.to(tl.float32) + 0.5 * (1 - SIZE % 2)


@triton.jit
def sampling_basis(zoom, index, frequency, SIZE: tl.constexpr, PERIOD: tl.constexpr):
    """cos and sin of 2 pi frequency u / PERIOD; `index` and `frequency` broadcast against each other."""
    whole, fraction = split_product(zoom, half_offset(index, SIZE))
    return cis(turns(frequency.to(tl.float32), whole, fraction, PERIOD))


@triton.jit
def shear_ramp(zy, sigma, index, kx, RH: tl.constexpr, W: tl.constexpr):
    """cos and sin of 2 pi kx sigma u_i / W for rows of the upper half; the lower half has the conjugate."""
    whole, fraction = split_product(zy, half_offset(index, RH))
    shift, rest = split_product(sigma, whole)
    return cis(turns(kx.to(tl.float32), wrapped(shift, W), rest + sigma * fraction, W))


@triton.jit
def view_phases(ty, tx, sigma, k, kx, H: tl.constexpr, W: tl.constexpr):
    """cos and sin of the phases of the view's centre: for rows k, then for columns kx."""
    whole_y, whole_x = tl.floor(ty), tl.floor(tx)
    whole_s, fraction_s = split_product(sigma, whole_y)
    fraction_y = ty - whole_y
    fraction_x = (tx - whole_x) + (fraction_s + sigma * fraction_y)
    whole_y = wrapped(whole_y + (H - 1) // 2, H)
    whole_x = wrapped(whole_x + whole_s + (W - 1) // 2, W)
    cos_y, sin_y = cis(turns(k.to(tl.float32), whole_y, fraction_y + 0.5 * ((H - 1) % 2), H))
    cos_x, sin_x = cis(turns(kx.to(tl.float32), whole_x, fraction_x + 0.5 * ((W - 1) % 2), W))
    return cos_y, sin_y, cos_x, sin_x


@triton.jit
def polar(magnitude, phase):
    """The planes of magnitude e^{i phase}, in radians: whole turns are subtracted in two steps, exactly."""
    whole = tl.floor(phase * 0.15915494309189535 + 0.5)
    rest = (phase - whole * 6.28125) - whole * 0.0019353071795864769
    cos, sin = cis(rest * 0.15915494309189535)
    return magnitude * cos, magnitude * sin


@triton.jit
def pixel_offsets(start, DIRECTION: tl.constexpr, BJ: tl.constexpr, RW: tl.constexpr):
    """Where BJ folded pixels of four channels begin in a row, channel by channel: [4 BJ].

    Upwards from the middle they are one run of memory; downwards, runs of one pixel each.
    """
    q = tl.arange(0, 4 * BJ)
    if DIRECTION > 0:
        return (RW // 2 + start) * 4 + q
    return ((RW - 1) // 2 - start) * 4 - q // 4 * 4 + q % 4


@triton.jit
def load_view(views_ptr, step_ptr, image, batch, TABLE: tl.constexpr):
    """ty, tx, zy, zx, sigma of an image; of the current step, if the views are a table of steps."""
    row = image
    if TABLE:
        row += tl.load(step_ptr).to(tl.int32) * batch
    at = views_ptr + row.to(tl.int64) * 5
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)


@triton.jit
def inside_mask(ty, tx, zy, zx, sigma, i, j, H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr):
    """Whether pixels (i, j) of the view lie on the canvas, half a pixel's rim included: [BI, BJ]."""
    y = zy * (i.to(tl.float32) - (RH - 1) * 0.5) + ty  # from the canvas's centre
    x = (zx * (j.to(tl.float32) - (RW - 1) * 0.5))[None, :] + (sigma * y)[:, None] + tx
    return (tl.abs(y) <= H * 0.5)[:, None] & (tl.abs(x) <= W * 0.5)


# --- Products.


@triton.jit
def power_of_two(biased):
    """2^(biased - 127) from a biased exponent in 1 .. 254."""
    return (biased << 23).to(tl.float32, bitcast=True)


@triton.jit
def raise_exponent(exponent, peak):
    """The larger of a biased exponent and that of peak >= 0."""
    return tl.maximum(exponent, peak.to(tl.int32, bitcast=True) >> 23)


@triton.jit
def scale_to_target(exponent):
    """The power of two that brings entries of a biased exponent to the target."""
    return power_of_two(-exponent + (2 * BIAS + TARGET_EXPONENT))


@triton.jit
def scale_from_target(exponent):
    return power_of_two(exponent - TARGET_EXPONENT)


@triton.jit
def rescale(old, new):
    """The factor of a sum accumulated at the exponent `old` that continues at `new`."""
    return power_of_two(tl.maximum(old - new + BIAS, 1))


@triton.jit
def load_basis(at, PLANE: tl.constexpr, EXACT: tl.constexpr):
    """Tiles of a table of `bases.py`: cos and sin as float16, then what that left of them (in fast mode, unused)."""
    cos, sin = tl.load(at), tl.load(at + PLANE)
    if EXACT:
        return cos, sin, tl.load(at + 2 * PLANE), tl.load(at + 3 * PLANE)
    return cos, sin, cos, sin


@triton.jit
def split(x, EXACT: tl.constexpr):
    """x as float16, and what that left of it."""
    high = x.to(tl.float16)
    if EXACT:
        return high, (x - high.to(tl.float32)).to(tl.float16)
    return high, high


@triton.jit
def product(a_high, a_low, b_high, b_low, total, EXACT: tl.constexpr):
    """total + a @ b on tensor cores: one product of float16 roundings, or three of high and low parts."""
    total = tl.dot(a_high, b_high, total)
    if EXACT:
        total = tl.dot(a_low, b_high, total)
        total = tl.dot(a_high, b_low, total)
    return total


# --- The optimiser.


@triton.jit
def one_minus_power(log_beta, step):
    """1 - beta^step; a series where the difference would leave few digits."""
    x = log_beta * step
    series = -x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0)))))
    return tl.where(x > -0.1, series, 1.0 - tl.exp(x))


@triton.jit
def adam_update(param, grad, exp_avg, exp_avg_sq, rate, correction, rest1, beta2, rest2, eps):
    """New param, exp_avg, exp_avg_sq; rate = lr / (1 - beta1^step), correction = 1 - beta2^step.

    rest1, rest2: 1 - beta1 and 1 - beta2, from the host: in float32, 1 - 0.999 is off by 1.3e-5 of itself.
    """
    exp_avg = exp_avg + rest1 * (grad - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * (grad * grad)
    param = param - rate * (exp_avg / (tl.sqrt(exp_avg_sq / correction) + eps))
    return param, exp_avg, exp_avg_sq

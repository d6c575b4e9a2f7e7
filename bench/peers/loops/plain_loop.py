"""The loop that one writes by hand after reading how it works: no library, and nothing clever.

lucent's parameterisation and learning rate, weights frozen, the whole network forward, a hook on the layer. No random
views, so what it finds excites the channel at one exact alignment: a high objective.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.peers.task import Clock, Task, kept_outputs, normalise

# What decorrelates ImageNet's colours (lucid's constants, normalised by the largest norm of a column).
COLOUR = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]) / 0.4619524


def render(net: nn.Module, task: Task, clock: Clock) -> Tensor:
    size, count = task.size, len(task.channels)
    net.requires_grad_(False)
    kept = kept_outputs(net.get_submodule(task.module))
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    scale = (1 / frequency.clamp(min=1 / size)).to(task.device)
    colour = COLOUR.to(task.device)
    spectrum = (torch.randn(count, 3, size, size // 2 + 1, 2) * 0.01).to(task.device).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=0.05)
    images, channels = torch.arange(count), torch.tensor(task.channels)

    def canvas() -> Tensor:
        waves = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(size, size), norm="ortho") / 4
        return torch.sigmoid(torch.einsum("oc,bchw->bohw", colour, waves))

    for _ in range(task.steps):
        clock.tick()
        kept.clear()
        net(normalise(canvas()))
        # [B, C, H, W], or [B, C] for a class: the sum over images gives each the gradient it would have alone.
        loss = -kept[0][images, channels].reshape(count, -1).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return canvas()

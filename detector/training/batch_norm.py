"""Batch norms that share their statistics between ranks, also on the CPU, for which PyTorch has none."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SynchronisedBatchNorm(nn.SyncBatchNorm):
    """`nn.SyncBatchNorm` that runs on the CPU, too: sums in float32 (or the input's float64),
    in float64 between ranks.

    In training on the CPU, mean and variance are those of all ranks' inputs [N, C, H, W], whose N may differ and be 0;
    gradients pass through them to all ranks. Everything else is `nn.SyncBatchNorm`'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        momentum, running_mean, running_var = self.momentum, self.running_mean, self.running_var
        batches = self.num_batches_tracked
        assert momentum is not None, "a cumulative average is not supported"
        assert running_mean is not None, "running statistics are always tracked"
        assert running_var is not None
        assert batches is not None
        group = self.process_group if self.process_group is not None else dist.group.WORLD
        with torch.autocast("cpu", enabled=False):
            x = input.to(torch.promote_types(input.dtype, torch.float32))
            count = x.new_full((1,), x.numel() / x.shape[1])
            sums = _sum(torch.cat([count, x.sum((0, 2, 3))]).double(), group)
            total, mean = sums[0].detach(), sums[1:] / sums[0].detach()
            centred = x - mean.to(x.dtype).view(-1, 1, 1)
            var = _sum(centred.square().sum((0, 2, 3)).double(), group) / total
            with torch.no_grad():
                batches.add_(1)
                running_mean.lerp_(mean.to(x.dtype), momentum)
                running_var.lerp_((var * total / (total - 1).clamp(min=1)).to(x.dtype), momentum)
            factor = torch.rsqrt(var + self.eps).to(x.dtype) * self.weight
            return (centred * factor.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(input.dtype)


def synchronise_batch_norms(module: nn.Module) -> None:
    """Makes every `nn.BatchNorm2d` of the module, in place, a SynchronisedBatchNorm with the same tensors."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
            norm.weight, norm.bias = child.weight, child.bias
            norm.running_mean, norm.running_var = child.running_mean, child.running_var
            norm.num_batches_tracked = child.num_batches_tracked
            norm.training = child.training
            setattr(module, name, norm)
        else:
            synchronise_batch_norms(child)


class _Sum(torch.autograd.Function):
    """The sum of the ranks' tensors, on every rank; so every rank's gradient counts on every rank."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _sum(tensor: Tensor, group: Any) -> Tensor:
    return _Sum.apply(tensor, group)

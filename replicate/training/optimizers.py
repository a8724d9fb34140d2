"""The optimisers, by the names that a run gives them. SGD is the paper's.

Each keeps the learning rate outside its buffers, as PyTorch does. Caffe's SGD keeps it inside, so the two differ for a
few iterations after each milestone.
"""

from torch import nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from replicate.run import Run

# What each keeps for a parameter, in its shape. RMSprop and Adam also count their steps.
BUFFERS = {
    "sgd": ("momentum_buffer",),
    "nesterov": ("momentum_buffer",),
    "rmsprop": ("square_avg",),
    "adam": ("exp_avg", "exp_avg_sq"),
}
EPSILON = 1e-8  # added to the root of the mean square, as in Caffe's RMSprop and in Adam's paper


def make_optimizer(run: Run, net: nn.Module) -> Optimizer:
    """Make a run's optimiser. Biases have no weight decay (released code: `decay_mult: 0`); the steps set the rate.

    With gradient g (the decayed weight included), learning rate lr, momentum m and decay of the mean square d:

    - `sgd`: v ← m v + g; w ← w - lr v
    - `nesterov`: v ← m v + g; w ← w - lr (g + m v)
    - `rmsprop`, as Caffe's: s ← d s + (1 - d) g²; w ← w - lr g / (√s + EPSILON)
    - `adam`: v ← m v + (1 - m) g; s ← d s + (1 - d) g²; w ← w - lr v' / (√s' + EPSILON), where v' = v / (1 - mᵗ) and
      s' = s / (1 - dᵗ) at step t
    """
    weights = [p for p in net.parameters() if p.ndim > 1]
    biases = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": run.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    decay = run.square_decay
    if run.optimizer == "rmsprop":
        return RMSprop(groups, lr=run.lr, alpha=0.99 if decay is None else decay, eps=EPSILON)
    if run.optimizer == "adam":
        return Adam(groups, lr=run.lr, betas=(run.momentum, 0.999 if decay is None else decay), eps=EPSILON)
    # Fused, it is one kernel for all parameters. The existing records of the CPU come from the plain loop.
    fused = all(p.is_cuda for p in net.parameters()) or None
    return SGD(groups, lr=run.lr, momentum=run.momentum, nesterov=run.optimizer == "nesterov", fused=fused)

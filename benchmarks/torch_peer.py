"""The same meta step in PyTorch, the usual way: reverse over reverse.

Run by another Python, which has PyTorch (the package does not depend on it):

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 numpy
    python -m benchmarks.export_step exported/ --dtype=float64 --batch_size=32
    torchenv/bin/python -m benchmarks.torch_peer check exported/step.npz
    python -m benchmarks.step_time --torch_python=torchenv/bin/python

`check` compares its gradients with those of the exported step.
"""

import argparse
import os
import time

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks import interleave

CIFAR_MEAN = (125.3, 123.0, 113.9)
CIFAR_STD = (63.0, 62.1, 66.7)
WIDTHS, BLOCKS, CLASSES = (16, 32, 64), 3, 10
LEARNING_RATE, MOMENTUM, META_LEARNING_RATE, TEMPERATURE = 0.05, 0.9, 1e-3, 0.5
TOLERANCE = 1e-6


class ResNet20(nn.Module):
    """The CIFAR form with parameter-free shortcuts, padded as TensorFlow pads."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(CIFAR_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(CIFAR_STD).view(1, 3, 1, 1))
        self._add("stem_conv", "stem_norm", 3, WIDTHS[0], 1)
        self.blocks, before = [], WIDTHS[0]
        for stage, width in enumerate(WIDTHS, 1):
            for block in range(1, BLOCKS + 1):
                name, stride = f"stage{stage}_block{block}", 1 + (width > before)
                for i, (inputs, step) in enumerate([(before, stride), (width, 1)], 1):
                    conv = f"{name}_conv{i}"
                    self._add(conv, f"{conv}_norm", inputs, width, step)
                self.blocks.append((name, stride, width - before))
                before = width
        self.logits = nn.Linear(before, CLASSES)

    def _add(self, conv, norm, inputs, width, stride):
        padding = 1 if stride == 1 else 0
        layer = nn.Conv2d(inputs, width, 3, stride, padding, bias=False)
        self.add_module(conv, layer)
        self.add_module(norm, nn.BatchNorm2d(width, eps=1e-5, momentum=0.1))

    def forward(self, x):
        """Images `(n, 3, h, w)` in 0..255 → features and logits."""
        x = F.relu(self.stem_norm(self.stem_conv((x - self.mean) / self.std)))
        for name, stride, missing in self.blocks:
            shortcut = x
            if stride > 1:
                before, after = missing // 2, missing - missing // 2
                shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after))
                x = F.pad(x, (0, 1, 0, 1))
            x = F.relu(self._conv_norm(f"{name}_conv1", x))
            x = F.relu(self._conv_norm(f"{name}_conv2", x) + shortcut)
        features = x.mean(dim=(2, 3))
        return features, self.logits(features)

    def _conv_norm(self, name, x):
        return getattr(self, f"{name}_norm")(getattr(self, name)(x))


def clid(features, logits):
    """CLID as the authors define it; see `clidmu_tf.clid`."""
    features = F.normalize(features.detach(), dim=-1)
    target = F.softmax(F.relu(features @ features.T) / TEMPERATURE, dim=-1)
    predictions = F.normalize(F.softmax(logits, dim=-1), dim=-1)
    agreement = predictions @ predictions.T
    agreement = agreement / agreement.sum(dim=-1, keepdim=True).detach()
    return -((target + 1e-7).log() * agreement).sum(dim=-1).mean()


class Peer:
    """A classifier and a weight net with their optimizers."""

    def __init__(self, meta_optimizer=torch.optim.Adam):
        torch.manual_seed(0)
        self.classifier = ResNet20().to(memory_format=torch.channels_last)
        self.weight_net = nn.Sequential(
            nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid()
        )
        self.optimizer = torch.optim.SGD(
            self.classifier.parameters(), LEARNING_RATE, MOMENTUM
        )
        self.meta_optimizer = meta_optimizer(
            self.weight_net.parameters(), META_LEARNING_RATE
        )

    def plain_step(self, x, y, meta_x):
        """A step of cross-entropy; returns the loss."""
        del meta_x
        loss = F.cross_entropy(self.classifier(x)[1], y)
        self._update_classifier(loss)
        return loss.item()

    def meta_step(self, x, y, meta_x):
        """A meta update and the real update after it; returns the meta loss."""
        theta = dict(self.classifier.named_parameters())
        # The moving averages of the virtual passes are thrown away.
        state = {n: b.clone() for n, b in self.classifier.named_buffers()}
        _, logits = functional_call(self.classifier, {**theta, **state}, (x,))
        slopes = torch.autograd.grad(
            self._weighted_loss(logits, y), list(theta.values()), create_graph=True
        )
        moved = {
            name: value - LEARNING_RATE * slope
            for (name, value), slope in zip(theta.items(), slopes, strict=True)
        }
        meta_loss = clid(
            *functional_call(self.classifier, {**moved, **state}, (meta_x,))
        )
        self.meta_optimizer.zero_grad()
        meta_loss.backward(inputs=list(self.weight_net.parameters()))
        self.meta_optimizer.step()
        self.weight_net.requires_grad_(False)
        self._update_classifier(self._weighted_loss(self.classifier(x)[1], y))
        self.weight_net.requires_grad_(True)
        return meta_loss.item()

    def _weighted_loss(self, logits, y):
        losses = F.cross_entropy(logits, y, reduction="none")
        weights = self.weight_net(losses.detach()[:, None])[:, 0]
        return (weights / weights.sum() * losses).sum()

    def _update_classifier(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def prepare(kind, batch_size):
    """Returns `run(steps)`, for `interleave.serve`."""
    torch.set_num_threads(os.cpu_count())
    peer, rng = Peer(), np.random.default_rng(0)
    x, meta_x = (_images(rng.integers(0, 256, (batch_size, 32, 32, 3))) for _ in "ab")
    y = torch.tensor(rng.integers(0, CLASSES, batch_size))
    step = {"plain": peer.plain_step, "meta": peer.meta_step}[kind]

    def run(steps):
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            step(x, y, meta_x)
            seconds.append(time.perf_counter() - start)
        return seconds

    return run


def check(path):
    """Raises where the gradients are not those of the exported step."""
    with np.load(path) as file:
        record = {name: file[name] for name in file.files}
    torch.set_default_dtype(torch.tensor(record["input/x"]).dtype)
    peer = Peer(torch.optim.SGD)
    theta = list(_parameters(peer.classifier))
    with torch.no_grad():
        for name, parameter in theta:
            parameter.copy_(_weight(record[f"input/theta/{name}"]))
        for name, parameter in _phi(peer):
            parameter.copy_(_weight(record[f"input/phi/{name}"]))
    y = torch.tensor(record["input/targets"].argmax(-1))
    x, meta_x = (_images(record[f"input/{name}"]) for name in ("x", "meta_x"))
    found = {"meta_loss": torch.tensor(peer.meta_step(x, y, meta_x))}
    found |= {f"gradient/{name}": parameter.grad for name, parameter in theta}
    found |= {f"meta_gradient/{name}": p.grad for name, p in _phi(peer)}
    for name, value in found.items():
        expected = _weight(record[f"output/{name}"])
        error = float((value - expected).norm() / expected.norm())
        print(f"{name:<45} relative error {error:.1e}")
        if not error < TOLERANCE:
            raise SystemExit(f"{name} is not that of the exported step.")


def _parameters(classifier):
    """The parameters by their Keras names."""
    for name, parameter in classifier.named_parameters():
        layer, kind = name.rsplit(".", 1)
        is_norm = layer.endswith("norm")
        names = {"weight": "gamma" if is_norm else "kernel"}
        names |= {"bias": "beta" if is_norm else "bias"}
        yield f"{layer}/{names[kind]}", parameter


def _phi(peer):
    hidden, weight = peer.weight_net[0], peer.weight_net[2]
    for name, layer in (("hidden", hidden), ("weight", weight)):
        yield f"{name}/kernel", layer.weight
        yield f"{name}/bias", layer.bias


def _images(x):
    x = torch.tensor(x, dtype=torch.get_default_dtype()).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def _weight(array):
    """Turns a Keras kernel PyTorch's way round; leaves the rest."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return torch.tensor(np.transpose(array, order).copy())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("check").add_argument("path", help="what export_step wrote")
    serve = parts.add_parser("serve")
    serve.add_argument("kind", choices=["plain", "meta"])
    serve.add_argument("batch_size", type=int)
    arguments = parser.parse_args()
    if arguments.part == "check":
        check(arguments.path)
    else:
        interleave.serve(lambda: prepare(arguments.kind, arguments.batch_size))


if __name__ == "__main__":
    main()

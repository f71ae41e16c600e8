"""The same ViT and ResNet in PyTorch; autocast makes them compute in bfloat16."""

import cases
import torch
import torch.nn.functional as F
from torch import nn
from torch_models import Block


class ViT(nn.Module):
    """Patches, layers, the mean over the patches."""

    def __init__(self, case: cases.Vit):
        super().__init__()
        patches = (case.image // case.patch) ** 2
        self.patches = nn.Conv2d(3, case.features, case.patch, case.patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, patches, case.features))
        layers = (Block(case.features, case.heads, causal=False) for _ in range(case.layers))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(case.features)
        self.output = nn.Linear(case.features, cases.CLASSES)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.output(self.norm(self.layers(x)).mean(dim=1))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 with the stride, 1 x 1 to four times the features, and a shortcut."""

    def __init__(self, before, width, stride, project):
        super().__init__()
        conv = lambda a, b, size, stride: nn.Conv2d(a, b, size, stride, size // 2, bias=False)
        self.conv_0, self.norm_0 = conv(before, width, 1, 1), nn.BatchNorm2d(width)
        self.conv_1, self.norm_1 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv_2, self.norm_2 = conv(width, 4 * width, 1, 1), nn.BatchNorm2d(4 * width)
        nn.init.zeros_(self.norm_2.weight)
        shortcut = nn.Sequential(conv(before, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))
        self.shortcut = shortcut if project else nn.Identity()

    def forward(self, x):
        y = F.relu(self.norm_0(self.conv_0(x)))
        y = F.relu(self.norm_1(self.conv_1(y)))
        return F.relu(self.norm_2(self.conv_2(y)) + self.shortcut(x))


def resnet(case: cases.Resnet) -> nn.Module:
    """A stem, the stages, an average over the image, and a dense layer."""
    stem = nn.Conv2d(3, case.width, 7, 2, 3, bias=False)
    parts = [stem, nn.BatchNorm2d(case.width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = case.width
    for i, blocks in enumerate(case.stages):
        for j in range(blocks):
            width, stride = case.width * 2**i, 2 if i > 0 and j == 0 else 1
            parts.append(Bottleneck(before, width, stride, j == 0))
            before = 4 * width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, cases.CLASSES))

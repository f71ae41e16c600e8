"""The three models in PyTorch, for the peers that are built on it; what they need to train them."""

import torch
import torch.nn.functional as F
from protocol import FEATURES, HEADS, LAYERS, LEARNING_RATE, LENGTH, VOCABULARY, WEIGHT_DECAY
from torch import nn


class Block(nn.Module):
    """A layer of GPT-2, norms first."""

    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
        self.qkv, self.out = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
        self.up, self.down = nn.Linear(FEATURES, 4 * FEATURES), nn.Linear(4 * FEATURES, FEATURES)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = lambda y: y.view(batch, length, HEADS, -1).transpose(1, 2)
        q, k, v = map(heads, self.qkv(self.norm_1(x)).split(FEATURES, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, FEATURES))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A small GPT-2: learned positions, tied embeddings."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, FEATURES), nn.Embedding(LENGTH, FEATURES)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(FEATURES)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.blocks(self.tokens(tokens) + self.positions(positions)))
        return F.linear(x, self.tokens.weight)


def model(case: str) -> nn.Module:
    """The model of a case."""
    if case == "gpt":
        return GPT()
    if case == "mlp":
        sizes = (64, 256, 256)
        hidden = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
    convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def loss(logits, targets):
    """The mean cross-entropy."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def optimizer(case: str, parameters, **options) -> torch.optim.Optimizer:
    """Adam, or for the GPT AdamW."""
    if case == "gpt":
        return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, **options)
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, **options)


def tensors(case: str, arrays) -> tuple[torch.Tensor, torch.Tensor]:
    """The data as PyTorch wants it: channels first, labels and tokens int64."""
    inputs, targets = map(torch.from_numpy, arrays)
    inputs = inputs.long() if case == "gpt" else inputs.permute(0, 3, 1, 2).contiguous()
    return inputs, targets.long()

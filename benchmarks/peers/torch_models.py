"""The three models in PyTorch, for the peers that are built on it; what they need to train them."""

import torch
import torch.nn.functional as F
from protocol import FEATURES, HEADS, LAYERS, LEARNING_RATE, LENGTH, VOCABULARY, WEIGHT_DECAY
from torch import nn


class Block(nn.Module):
    """A layer of GPT-2, norms first."""

    def __init__(self, features, heads, causal=True):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x):
        batch, length, features = x.shape
        split = lambda y: y.view(batch, length, self.heads, -1).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.norm_1(x)).split(features, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, features))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A GPT-2: learned positions, tied embeddings."""

    def __init__(self, vocabulary, length, layers, heads, features):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, features), nn.Embedding(length, features)
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.blocks(self.tokens(tokens) + self.positions(positions)))
        return F.linear(x, self.tokens.weight)


def model(case: str) -> nn.Module:
    """The model of a case."""
    if case == "gpt":
        return GPT(VOCABULARY, LENGTH, LAYERS, HEADS, FEATURES)
    if case == "mlp":
        hidden = (nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
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

"""The small GPT in PyTorch, eager, as one would write it; started by benchmarks/gpt.py in its environment."""

import common
import torch
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)


class Block(nn.Module):
    """Attention and MLP, each normalised before."""

    def __init__(self):
        super().__init__()
        size = common.FEATURES
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.output = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x):
        """float[batch, length, features] -> the same."""
        batch, length, size = x.shape
        heads = (
            y.view(batch, length, common.HEADS, -1).transpose(1, 2)
            for y in self.qkv(self.attention_norm(x)).split(size, dim=2)
        )
        y = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, length, size))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """Logits made with the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(common.VOCABULARY, common.FEATURES)
        self.positions = nn.Embedding(common.LENGTH, common.FEATURES)
        self.blocks = nn.ModuleList(Block() for _ in range(common.LAYERS))
        self.norm = nn.LayerNorm(common.FEATURES)

    def forward(self, tokens):
        """int[batch, length] -> logits."""
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)


@torch.no_grad()
def load(model):
    """The shared first parameters; norms and biases begin as in PyTorch's own, after zeroing the biases."""
    params = common.parameters()
    model.embedding.weight.copy_(torch.from_numpy(params["embedding"]))
    model.positions.weight.copy_(torch.from_numpy(params["positions"]))
    for i, block in enumerate(model.blocks):
        attention, mlp = params[f"block_{i}"]["attention"], params[f"block_{i}"]["mlp"]
        kernels = [torch.from_numpy(attention[name]["kernel"]) for name in ("query", "key", "value")]
        block.qkv.weight.copy_(torch.cat(kernels, dim=1).T)
        for layer, kernel in (
            (block.output, attention["output"]),
            (block.up, mlp["up"]),
            (block.down, mlp["down"]),
        ):
            layer.weight.copy_(torch.from_numpy(kernel["kernel"]).T)
        for layer in (block.qkv, block.output, block.up, block.down):
            layer.bias.zero_()


def main():
    """Answers until stdin ends."""
    model = GPT()
    load(model)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=common.LEARNING_RATE,
        betas=common.BETAS,
        eps=common.EPSILON,
        weight_decay=common.WEIGHT_DECAY,
    )
    tokens = torch.from_numpy(common.tokens()).long()
    inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(inputs).view(-1, common.VOCABULARY), labels.view(-1))
        loss.backward()
        optimizer.step()
        return loss.detach()

    common.answer(step)


if __name__ == "__main__":
    main()

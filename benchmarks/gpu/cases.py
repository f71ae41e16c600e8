"""The three trainings for one accelerator, their sizes, and how many FLOPs a step of each has.

A multiply and an add are two FLOPs, the backward pass has twice those of the forward; nothing is counted twice
for rematerialisation, and attention is counted whole, causal or not.
"""

from typing import NamedTuple

CLASSES = 1000
BATCHES = 4  # on the device
BYTES = 2**30  # up to which jaxkit's loop keeps data there: feeding.MAX_BYTES_ON_DEVICES


class Gpt(NamedTuple):
    """GPT-2 small; its vocabulary is rounded up to a multiple of 64 on both sides."""

    batch: int = 32
    length: int = 1024
    vocabulary: int = 50_304
    layers: int = 12
    heads: int = 12
    features: int = 768


class Vit(NamedTuple):
    """A ViT-B/16, with the mean over its 196 patches in place of a class token."""

    batch: int = 256
    image: int = 224
    patch: int = 16
    layers: int = 12
    heads: int = 12
    features: int = 768


class Resnet(NamedTuple):
    """A ResNet-50 v1.5."""

    batch: int = 256
    image: int = 224
    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64


Case = Gpt | Vit | Resnet
CASES: dict[str, Case] = {"gpt2": Gpt(), "vit": Vit(), "resnet": Resnet()}
# To see that every line runs; what these measure is no figure.
TINY: dict[str, Case] = {
    "gpt2": Gpt(batch=2, length=32, vocabulary=64, layers=2, heads=2, features=32),
    "vit": Vit(batch=2, image=32, layers=2, heads=2, features=32),
    "resnet": Resnet(batch=2, image=32, width=8),
}


def of(name: str, size: str) -> Case:
    """A case by name; `size` is "tiny", or the batch, "0" for the case's own."""
    if size == "tiny":
        return TINY[name]
    return CASES[name]._replace(batch=int(size)) if int(size) else CASES[name]


def units(case: Case) -> tuple[int, str]:
    """What a step takes in: so many tokens or images."""
    return (case.batch * case.length, "tokens") if isinstance(case, Gpt) else (case.batch, "images")


def batches(case: Case) -> int:
    """How many batches lie on the device: fewer where the loop would find all of them too large for it."""
    example = 4 * (2 * case.length if isinstance(case, Gpt) else 3 * case.image**2 + 1)
    found = min(BATCHES, BYTES // (case.batch * example))
    if not found:
        raise SystemExit(f"--batch={case.batch}: {case.batch * example:,} bytes a batch, wanted at most {BYTES:,}")
    return found


def flops(case: Case) -> float:
    """The FLOPs of one step.

    GPT-2: 6 for each parameter and 12 x layers x features x length, for each token (PaLM, arXiv 2204.02311,
    appendix B); the others by their matrix products.
    """
    if isinstance(case, Gpt):
        layer = 12 * case.features**2 + 13 * case.features
        embeddings = (case.vocabulary + case.length) * case.features
        parameters = embeddings + case.layers * layer + 2 * case.features
        token = 6 * parameters + 12 * case.layers * case.features * case.length
        return float(case.batch * case.length * token)
    if isinstance(case, Vit):
        tokens, size = (case.image // case.patch) ** 2, case.features
        layer = 12 * tokens * size**2 + 2 * tokens**2 * size
        macs = tokens * case.patch**2 * 3 * size + case.layers * layer + size * CLASSES
        return 6.0 * case.batch * macs
    return 6.0 * case.batch * _resnet_macs(case)


def _resnet_macs(case: Resnet) -> int:
    """4.09e9 at 224 x 224."""
    side, before = case.image // 4, case.width
    macs = (case.image // 2) ** 2 * 7 * 7 * 3 * case.width
    for i, blocks in enumerate(case.stages):
        width = case.width * 2**i
        for j in range(blocks):
            macs += side**2 * before * width
            side //= 2 if i > 0 and j == 0 else 1
            macs += side**2 * (9 * width**2 + 4 * width**2)
            macs += side**2 * before * 4 * width if j == 0 else 0
            before = 4 * width
    return macs + before * CLASSES

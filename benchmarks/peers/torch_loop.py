"""PyTorch by hand: data in memory, a gather for each batch. Variants: eager, fused (one Adam kernel), compile."""

import time

began = time.perf_counter()

import torch  # noqa: E402

imports = time.perf_counter() - began

import protocol  # noqa: E402
import torch_models  # noqa: E402


def main():
    case, variant, arrays = protocol.arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch_models.model(case)
    optimizer = torch_models.optimizer(case, model.parameters(), **({} if variant == "eager" else {"fused": True}))
    inputs, targets = torch_models.tensors(case, arrays)
    loss_of = lambda x, y: torch_models.loss(model(x), y)
    if variant == "compile":
        loss_of = torch.compile(loss_of)
    on_step = protocol.session(
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=next(model.parameters()).dtype,
        imports=imports,
        packages=("torch",),
    )
    for index in protocol.indices(len(inputs), protocol.BATCH[case]):
        index = torch.from_numpy(index)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(inputs[index], targets[index])
        loss.backward()
        optimizer.step()
        on_step(loss.item)


main()

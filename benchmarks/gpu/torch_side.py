"""The PyTorch side: torch.compile, bfloat16 autocast, channels last, fused optimizers."""

import time

began = time.perf_counter()

import torch  # noqa: E402

imports = time.perf_counter() - began

import sys  # noqa: E402

import cases  # noqa: E402
import probe  # noqa: E402
import protocol  # noqa: E402
import torch_models  # noqa: E402
import vision_torch  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parts_of(case: cases.Case):
    """The model, the optimizer and the batches, on the device."""
    size = cases.batches(case) * case.batch
    adamw = lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    if isinstance(case, cases.Gpt):
        tokens = torch.randint(0, case.vocabulary, (size, case.length + 1), device=DEVICE)
        shape = (case.vocabulary, case.length, case.layers, case.heads, case.features)
        model = torch_models.GPT(*shape).to(DEVICE)
        return model, adamw(model), tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    images = torch.rand(size, 3, case.image, case.image, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, cases.CLASSES, (size,), device=DEVICE)
    vit = isinstance(case, cases.Vit)
    model = vision_torch.ViT(case) if vit else vision_torch.resnet(case)
    model = model.to(DEVICE, memory_format=torch.channels_last)
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    return model, adamw(model) if vit else sgd(model), images, labels


def main() -> None:
    name, _, size = sys.argv[1:]
    case = cases.of(name, size)
    if DEVICE == "cpu" and size != "tiny":
        raise SystemExit(f"torch {torch.__version__} finds no CUDA device; install its build for CUDA")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    model, optimizer, inputs, targets = parts_of(case)
    notes: dict = {"device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"}
    on_step = protocol.session(
        parameters=sum(p.numel() for p in model.parameters()),
        dtype="bfloat16",
        imports=imports,
        packages=("torch",),
        notes=notes,
    )
    activity = torch.profiler.ProfilerActivity.CUDA if DEVICE == "cuda" else torch.profiler.ProfilerActivity.CPU
    profiler = torch.profiler.profile(activities=[activity])

    def end():
        profiler.stop()
        notes["peak"] = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
        # Kernels and copies: no calls that launch or wait for them, no spans of an optimizer's step around them.
        on = getattr(torch.autograd.DeviceType, DEVICE.upper())
        work = [event for event in profiler.events() if event.device_type == on]
        work = [event for event in work if not getattr(event, "is_user_annotation", False)]
        return [(event.time_range.start, event.time_range.end) for event in work]

    on_step = probe.probed(on_step, notes, begin=profiler.start, end=end)

    @torch.compile
    def loss_of(x, y):
        with torch.autocast(DEVICE, torch.bfloat16):
            return torch_models.loss(model(x), y)

    n = 0
    while True:
        start = n * case.batch % len(inputs)
        rows = slice(start, start + case.batch)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(inputs[rows], targets[rows])
        loss.backward()
        optimizer.step()
        on_step(loss.item)  # which waits for the step
        n += 1


main()

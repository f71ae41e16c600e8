"""The Trainer of Hugging Face transformers, without its reports, bar and checkpoints."""

import tempfile
import time

began = time.perf_counter()

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: E402

imports = time.perf_counter() - began

import protocol  # noqa: E402
import torch_models  # noqa: E402


class Model(torch.nn.Module):
    """A model that returns its loss, as the Trainer wants it."""

    def __init__(self, case):
        super().__init__()
        self.model, self.newest = torch_models.model(case), None

    def forward(self, inputs, labels):
        loss = torch_models.loss(self.model(inputs), labels)
        self.newest = loss.detach()
        return {"loss": loss}


class Rounds(TrainerCallback):
    """Tells the driver of every step."""

    def __init__(self, on_step, model):
        self.on_step, self.model = on_step, model

    def on_step_end(self, args, state, control, **kwargs):
        self.on_step(self.model.newest.item)


def main():
    case, _, arrays = protocol.arguments()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    inputs, targets = torch_models.tensors(case, arrays)
    data = [{"inputs": x, "labels": y} for x, y in zip(inputs, targets)]
    transformers.set_seed(0)
    model = Model(case)
    on_step = protocol.session(
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=next(model.parameters()).dtype,
        imports=imports,
        packages=("transformers", "torch"),
    )
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=protocol.BATCH[case],
        max_steps=10_000_000,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_drop_last=True,
        use_cpu=True,
    )
    optimizers = (torch_models.optimizer(case, model.parameters()), None)
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=optimizers)
    trainer.add_callback(Rounds(on_step, model))
    trainer.train()


main()

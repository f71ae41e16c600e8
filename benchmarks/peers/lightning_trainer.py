"""Lightning: a LightningModule, a DataLoader and the Trainer, without its logger, bar and checkpoints."""

import time

began = time.perf_counter()

import lightning  # noqa: E402
import torch  # noqa: E402

imports = time.perf_counter() - began

import protocol  # noqa: E402
import torch_models  # noqa: E402


class Module(lightning.LightningModule):
    """The model, its loss and its optimizer."""

    def __init__(self, case):
        super().__init__()
        self.case, self.model = case, torch_models.model(case)

    def training_step(self, batch, _):
        return torch_models.loss(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch_models.optimizer(self.case, self.parameters())


class Rounds(lightning.Callback):
    """Tells the driver of every step."""

    def __init__(self, on_step):
        self.on_step = on_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.on_step(outputs["loss"].item)


def main():
    case, _, arrays = protocol.arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Module(case)
    data = torch.utils.data.TensorDataset(*torch_models.tensors(case, arrays))
    loader = torch.utils.data.DataLoader(data, batch_size=protocol.BATCH[case], shuffle=True, drop_last=True)
    on_step = protocol.session(
        parameters=sum(p.numel() for p in module.parameters()),
        dtype=next(module.parameters()).dtype,
        imports=imports,
        packages=("lightning", "torch"),
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[Rounds(on_step)],
    )
    trainer.fit(module, loader)


main()

"""A training update of the same transformer in PyTorch; runs in PyTorch's own environment.

`torch_model.py` says what is equal. With the peer `torch_compile`, model and loss go through `torch.compile`.
"""

import torch  # pyright: ignore[reportMissingImports]
from serving import serve  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]
from torch_model import Transformer  # pyright: ignore[reportMissingImports]

HISTORIES, WINDOWS = 256, 4  # as in ad_jax/bench/distilling.py
VALUES, ACTIONS = (9, 9), 5  # of Dark Room: rows and columns; ways to go


def make(work: dict):
    """Return what makes some updates, and the versions it does so with."""
    c, length, batch = work["model"], work["segment"], work["batch"]
    mlp = c.get("mlp_width", 4 * c["width"])
    model = Transformer(VALUES, ACTIONS, c["layers"], c["width"], c["heads"], mlp, 0.0, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    steps = WINDOWS * length
    observation = torch.randint(0, 9, (HISTORIES, steps, 2), dtype=torch.uint8)
    action = torch.randint(0, ACTIONS, (HISTORIES, steps), dtype=torch.uint8)
    reward, done = (torch.randint(0, 2, (HISTORIES, steps), dtype=torch.uint8) for _ in range(2))

    def loss_of(inputs, targets):
        return functional.cross_entropy(model(*inputs).flatten(0, 1), targets.flatten())

    loss = torch.compile(loss_of) if work["peer"] == "torch_compile" else loss_of

    def call():
        last = torch.zeros(())
        for _ in range(work["updates"]):
            row = torch.randint(HISTORIES, (batch, 1))
            at = torch.randint(1, steps - length + 1, (batch, 1)) + torch.arange(length)
            before = action[row, at - 1].long(), reward[row, at - 1].float(), done[row, at - 1].long()
            last = loss((observation[row, at].long(), *before), action[row, at].long())
            optimizer.zero_grad(set_to_none=True)
            last.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return {"loss": last.item(), "parameters": sum(p.numel() for p in model.parameters())}

    return call, {"torch": torch.__version__}


if __name__ == "__main__":
    serve(make)

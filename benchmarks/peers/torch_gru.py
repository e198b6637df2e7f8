"""The same GRU in PyTorch, for the peers that train PyTorch models: look-ups, one fused Adam.

nn.GRU takes inputs, not gates, and one-hot inputs of thousands of values are what look-ups avoid;
so the input's share comes from an nn.EmbeddingBag and the 16 steps are written out and compiled by
TorchScript.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

NAMES = ("rows", "numbers", "recurrent", "bias", "head_kernel", "head_bias")


@torch.jit.script
def run_gru(gates: torch.Tensor, recurrent: torch.Tensor, bias: torch.Tensor, h: torch.Tensor):
    """gates [batch, seq_len, 3 * hidden_dim]; Keras' order of gates: update, reset, candidate."""
    hidden = []
    for gates_t in gates.unbind(1):
        zx, rx, cx = gates_t.chunk(3, -1)
        zh, rh, ch = torch.addmm(bias, h, recurrent).chunk(3, -1)
        z = torch.sigmoid(zx + zh)
        candidate = torch.tanh(cx + torch.sigmoid(rx + rh) * ch)
        h = candidate + z * (h - candidate)
        hidden.append(h)
    return torch.stack(hidden, 1), h


class Gru(nn.Module):
    """Weights under fedgru's names; see fedgru/models/gru.py for their shapes."""

    def __init__(self, settings):
        super().__init__()
        gates_dim = 3 * settings["hidden_dim"]
        shapes = {
            "rows": (settings["num_rows"], gates_dim),
            "numbers": (settings["num_numbers"], gates_dim),
            "recurrent": (settings["hidden_dim"], gates_dim),
            "bias": (2, gates_dim),
            "head_kernel": (settings["hidden_dim"], settings["num_classes"]),
            "head_bias": (settings["num_classes"],),
        }
        for name in NAMES:
            self.register_parameter(name, nn.Parameter(torch.zeros(shapes[name])))
        self.dropout = settings["dropout"]

    def set_arrays(self, arrays):
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.from_numpy(np.asarray(arrays[name])))

    def arrays(self):
        return {name: p.detach().numpy().copy() for name, p in self.named_parameters()}

    def forward(self, rows, numbers, h):
        """rows int64 [batch, seq_len, ids]; returns logits [batch, seq_len, classes] and h."""
        batch, seq_len, ids = rows.shape
        weight = (rows >= 0).float()
        found = rows.clamp(min=0)
        if self.training and self.dropout > 0:
            num_inputs = len(self.rows) + numbers.shape[-1]
            kept = torch.empty(batch, num_inputs).bernoulli_(1 - self.dropout) / (1 - self.dropout)
            weight = weight * kept.gather(1, found.view(batch, -1)).view(rows.shape)
            numbers = numbers * kept[:, None, len(self.rows) :]
        looked_up = functional.embedding_bag(
            found.view(-1, ids), self.rows, per_sample_weights=weight.view(-1, ids), mode="sum"
        )
        gates = looked_up.view(batch, seq_len, -1) + numbers @ self.numbers + self.bias[0]
        hidden, h = run_gru(gates, self.recurrent, self.bias[1], h)
        return hidden @ self.head_kernel + self.head_bias, h


def tensors(arrays):
    """Client arrays as tensors; row numbers as the int64 that PyTorch indexes with."""
    return [torch.from_numpy(a.astype(np.int64) if a.dtype == np.int32 else a) for a in arrays]


def train_client(model, client, settings):
    """One client's local steps with a fresh Adam; returns the summed loss."""
    adam = torch.optim.Adam(model.parameters(), settings["client_lr"], eps=1e-7, fused=True)
    model.train()
    h = torch.zeros(settings["batch_size"], settings["hidden_dim"])
    total = 0.0
    steps = tensors((client.rows, client.numbers, client.targets))
    for rows, numbers, targets in zip(*steps, strict=True):
        adam.zero_grad()
        logits, h = model(rows, numbers, h)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        adam.step()
        h = h.detach()
        total += loss.item() * targets.numel()
    return total


@torch.no_grad()
def score_client(model, client, settings):
    """Returns the summed loss over the validation split, and its number of targets."""
    model.eval()
    h = torch.zeros(settings["batch_size"], settings["hidden_dim"])
    total = 0.0
    for rows, numbers, targets, mask in zip(*tensors(client.val), strict=True):
        logits, h = model(rows, numbers, h)
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        total += float((losses * mask.flatten()).sum())
    return total, float(client.val[3].sum())

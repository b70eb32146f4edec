"""Small models of PyTorch, and loaders for them."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Images(nn.Module):
    """Convolutions, a pooling layer and a linear one, as torchvision's image models have them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        h = self.avgpool(self.relu(self.bn(self.conv(x))))
        return self.fc(self.dropout(torch.flatten(h, 1)))


class Tokens(nn.Module):
    """A tagger of tokens (batch, tokens), with padding masked, that returns a dict."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids, attention_mask=None):
        padding = None if attention_mask is None else attention_mask == 0
        h = self.encoder(self.embed(ids), src_key_padding_mask=padding)
        return {"logits": self.head(h), "hidden": h}


def made(kind, seed=0):
    """Return a model in eval mode, the same for the same seed."""
    torch.manual_seed(seed)
    return kind().eval()


def table():
    """Return a network for rows of a table of 4 columns."""
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def images(n=40, seed=1):
    torch.manual_seed(seed)
    return torch.randn(n, 1, 8, 8), torch.randint(0, 3, (n,))


def sequences(n=12, seed=1):
    """Return ids, masks and labels (n, 5); padded tokens have the label -100."""
    torch.manual_seed(seed)
    ids = torch.randint(0, 20, (n, 5))
    mask = (torch.arange(5) < torch.randint(2, 6, (n, 1))).long()
    return ids, mask, torch.randint(0, 3, (n, 5)).masked_fill(mask == 0, -100)


def loader(*tensors, batch_size=7, **options):
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, **options)

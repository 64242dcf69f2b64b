"""A device that computes on the CPU and comes to things late, as a GPU does, for tests of what waits for it."""

from __future__ import annotations

import torch


class Happened:
    def __init__(self, function):
        self.function = function

    def synchronize(self):
        function, self.function = self.function, lambda: None
        function()


class PlayedDevice:
    """Reads a pinned buffer until somebody has waited for that, and has a result there no sooner than that."""

    def __init__(self):
        self.uploads, self.downloads = 0, 0

    def pinned(self, shape, dtype):
        return torch.full(shape, 77, dtype=dtype)

    def upload(self, pinned):
        uploaded = pinned.clone()
        self.uploads += 1

        def check():
            assert torch.equal(pinned, uploaded), "written to while the device read it"

        return uploaded, Happened(check)

    def download(self, tensor):
        downloaded = torch.full_like(tensor, torch.nan)
        self.downloads += 1
        return downloaded, Happened(lambda: downloaded.copy_(tensor))

"""What a run cost: counted in images, so that it does not depend on the batch."""

import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Cost:
    """Totals over a run. One forward = one image once through the denoiser (a CFG step is two); likewise the others.

    backwards: gradients of the energies through the denoiser. decodes: latents through the autoencoder's decoder.
    auxiliary: images through networks that an energy uses. seconds: wall clock between `go_on` and `pause`. peak_mb:
    peak memory in MiB since `start`, on a GPU of the allocator, on a CPU of the process.
    """

    images: int = 0
    forwards: int = 0
    backwards: int = 0
    decodes: int = 0
    auxiliary: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    _since: float | None = field(default=None, repr=False)

    @property
    def nfe(self) -> float:
        """Denoiser evaluations per image."""
        return self.forwards / self.images

    def start(self, device: torch.device) -> None:
        """Measure memory from here on, and time."""
        _reset_peak(device)
        self.go_on()

    def pause(self, device: torch.device) -> None:
        """Add up; from here to `go_on` time does not count. A run that is left in between has its right totals."""
        if self._since is None:
            return
        _finish(device)
        self.seconds += time.perf_counter() - self._since
        self.peak_mb, self._since = _peak_mb(device), None

    def go_on(self) -> None:
        self._since = time.perf_counter()

    def as_dict(self) -> dict[str, float]:
        return {k: v for k, v in vars(self).items() if not k.startswith("_")} | {"nfe": self.nfe}


def _finish(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again at the present size


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, since the process began
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

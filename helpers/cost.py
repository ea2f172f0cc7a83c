"""What a run cost: counted in images, so that it does not depend on the batch."""

import resource
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch


@dataclass
class Cost:
    """Totals over a run. One forward = one image once through the denoiser (a CFG step is two); likewise the others.

    backwards: gradients of the energies through the denoiser. decodes: latents through the autoencoder's decoder.
    auxiliary: images through networks that an energy uses. seconds: wall clock. peak_mb: peak memory in MiB, on a GPU
    of the allocator, on a CPU of the process.
    """

    images: int = 0
    forwards: int = 0
    backwards: int = 0
    decodes: int = 0
    auxiliary: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    _clock: float = field(default=0.0, repr=False)

    @property
    def nfe(self) -> float:
        """Denoiser evaluations per image."""
        return self.forwards / self.images

    def start(self, device: torch.device) -> None:
        _reset_peak(device)
        self._clock = time.perf_counter()

    def stop(self, device: torch.device) -> None:
        _finish(device)
        self.seconds = time.perf_counter() - self._clock
        self.peak_mb = _peak_mb(device)

    @contextmanager
    def paused(self, device: torch.device):
        """What is done inside is not counted (memory is): a Trace does not change what it watches."""
        _finish(device)
        before, began = replace(self), time.perf_counter()
        yield
        _finish(device)
        vars(self).update(vars(before))
        self._clock += time.perf_counter() - began

    def as_dict(self) -> dict[str, float]:
        return {k: v for k, v in asdict(self).items() if k != "_clock"} | {"nfe": self.nfe}


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

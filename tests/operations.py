"""Operations that have no deterministic kernel on CUDA: `torch.use_deterministic_algorithms` refuses them there."""

from torch.utils._python_dispatch import TorchDispatchMode

ALWAYS = {"kthvalue", "median.dim", "nanmedian.dim", "mode", "histc", "put", "grid_sampler_2d", "_embedding_bag"}
ALWAYS |= {"max_unpool2d", "max_unpool3d", "nll_loss2d_forward", "ctc_loss", "upsample_linear1d_backward"}


class Nondeterministic(TorchDispatchMode):
    """Gathers the names of those that run inside it; the CPU runs them all."""

    def __init__(self):
        super().__init__()
        self.names, self.count = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        full = f"{name}.{func._schema.overload_name}"
        is_sum_of_floats = name in ("cumsum", "cumprod") and args[0].is_floating_point()
        has_weights = name == "bincount" and args[1:2] not in ((), (None,))
        if name in ALWAYS or full in ALWAYS or is_sum_of_floats or has_weights:
            self.names.add(full)
        return func(*args, **(kwargs or {}))

"""nano on another device than the host, pretended on the CPU: what mixes tensors of both would fail on a GPU, and does
here. A script, since inference mode cannot hold such tensors and has to be another before anything is imported.

    python accelerator.py    # prints what the pipeline asked of the device, by task
"""

import json

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

torch.inference_mode = lambda given=True: torch.no_grad()(given) if callable(given) else torch.no_grad()

from llasa_lite import Llasa, Sampling
from llasa_lite.engine import Engine

NAME = "pretended"
_setup_privateuseone_for_python_backend(NAME)
getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
waits = 0  # how often the host waited for the device


class Away(torch.Tensor):
    """A tensor that says it is elsewhere, and has its numbers here."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        like = dict(strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=f"{NAME}:0")
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, **like)

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})

    def tolist(self):
        global waits
        waits += 1
        return self.here.tolist()


class Pretended(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


def computed(function, args, kwargs):
    global waits
    given = tree_leaves((args, kwargs))
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, Away)]
    devices = [x.type for x in given if isinstance(x, torch.device)]
    if not away and NAME not in devices:
        return function(*args, **kwargs)
    name = function.name()
    copies = name.startswith(("aten::to", "aten::_to_copy", "aten::copy_"))
    if any(x.dim() for x in tensors if not isinstance(x, Away)) and away and not copies:
        raise RuntimeError(f"{name} mixes tensors of {[str(x.device) for x in tensors]}.")
    to_host = "cpu" in devices or name.startswith("aten::copy_") and not isinstance(args[0], Away)
    waits += to_host or name in ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::nonzero")
    out = function(*tree_map(here, args), **tree_map(here, kwargs))
    if to_host:
        return out
    before = {id(x.here): x for x in away}  # what was changed in place stays the same tensor
    return tree_map(lambda x: before.get(id(x), Away(x)) if isinstance(x, torch.Tensor) else x, out)


def here(x):
    return x.here if isinstance(x, Away) else torch.device("cpu") if isinstance(x, torch.device) else x


def made(real):
    """torch.tensor and torch.as_tensor ask no dispatcher."""

    def make(data, *args, device="cpu", **kwargs):
        if torch.device(device).type != NAME:
            return real(data, *args, device=device, **kwargs)
        return data if isinstance(data, Away) else Away(real(data, *args, **kwargs))

    return make


def tasks(llasa: Llasa) -> dict[str, list]:
    how = Sampling(top_k=5, repetition_penalty=1.1, guidance=2.0)
    found = {
        "tts": llasa.tts("Oh.", seed=1, sampling=how).codes,
        "search": llasa.search("Oh.", "emma", "partial_prm", 2, outcome="likelihood", seed=1).best.codes,
        "encode": llasa.codec.encode(llasa.prepare("joe").wav[:16_000]),
    }
    return {name: [np.asarray(one).tolist() for one in some] for name, some in found.items()}


if __name__ == "__main__":
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    host = Llasa.from_pretrained("nano", device="cpu", dtype="float32")
    llasa = Llasa.from_pretrained("nano", device="cpu", dtype="float32")
    wanted = tasks(host)
    torch.tensor, torch.as_tensor = made(torch.tensor), made(torch.as_tensor)
    with Pretended():
        for model in llasa.engine.model, llasa.codec.model:
            model._apply(lambda t: Away(t.detach().clone()))
        like = dict(max_ids=llasa.engine.max_ids, patience=llasa.engine.patience)
        llasa.engine = Engine(llasa.engine.model, llasa.engine.ids_of, static=True, **like)
        got = tasks(llasa)
    same = {task: got[task] == wanted[task] for task in wanted}
    print(json.dumps({"device": str(llasa.engine.device), "waits": waits, "same": same}))
